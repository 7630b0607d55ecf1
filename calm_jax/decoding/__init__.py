"""The decode loop: tokens outside, layers inside, decisions passed in."""
