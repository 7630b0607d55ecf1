"""Text in, batches of token ids out: JSONL records, tokenizers, batching and, behind the extra [seqio], seqio tasks."""
