"""What a program multiplies when it runs: the matrix products of the branches it takes and the rounds of its loops."""

import math

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal


def products(function, *args):
    """(operations of the matrix products that function(*args) executes, its result).

    2·M·N·K for each product and batch of it, as shaped, padding and all, in dot_general (matmul, einsum) and convolutions. Of
    a `cond` those of the branch that is taken, of a `while_loop` or `scan` those of each round. args: pytrees of arrays.

    The function is traced, and its equations run one after the other: what is compiled is each kind of equation, once.
    """
    jaxpr, result = jax.make_jaxpr(function, return_shape=True)(*args)
    total, values = _run(jaxpr, jax.tree.leaves(args))
    return total, jax.tree.unflatten(jax.tree.structure(result), values)


def _run(jaxpr, inputs):
    """(operations, outputs) of a closed jaxpr."""
    known = dict(zip((*jaxpr.jaxpr.constvars, *jaxpr.jaxpr.invars), (*jaxpr.consts, *inputs), strict=True))
    total = 0
    for equation in jaxpr.jaxpr.eqns:
        values = [each.val if isinstance(each, Literal) else known[each] for each in equation.invars]
        operations, outputs = _RULES.get(equation.primitive.name, _other)(equation, values)
        total += operations
        known.update(zip(equation.outvars, outputs, strict=True))
    return total, [each.val if isinstance(each, Literal) else known[each] for each in jaxpr.jaxpr.outvars]


def _call(equation, values):
    (body,) = _bodies(equation)
    return _run(body, values)


def _cond(equation, values):
    return _run(equation.params['branches'][int(values[0])], values[1:])


def _while(equation, values):
    params = equation.params
    asked, values = values[: params['cond_nconsts']], values[params['cond_nconsts'] :]
    constants, carry = values[: params['body_nconsts']], values[params['body_nconsts'] :]
    total, (goes_on,) = _run(params['cond_jaxpr'], [*asked, *carry])
    while goes_on:
        round_, carry = _run(params['body_jaxpr'], [*constants, *carry])
        condition, (goes_on,) = _run(params['cond_jaxpr'], [*asked, *carry])
        total += round_ + condition
    return total, carry


def _scan(equation, values):
    params = equation.params
    last = params['num_consts'] + params['num_carry']
    constants, carry, scanned = values[: params['num_consts']], values[params['num_consts'] : last], values[last:]
    total, rounds = 0, range(params['length'])
    stacked = [[None] * params['length'] for _ in equation.outvars[params['num_carry'] :]]
    for i in reversed(rounds) if params['reverse'] else rounds:
        operations, outputs = _run(params['jaxpr'], [*constants, *carry, *(each[i] for each in scanned)])
        total, carry = total + operations, outputs[: params['num_carry']]
        for column, value in zip(stacked, outputs[params['num_carry'] :]):
            column[i] = value
    shapes = [each.aval for each in equation.outvars[params['num_carry'] :]]
    return total, [*carry, *(jnp.stack(c) if c else jnp.zeros(s.shape, s.dtype) for c, s in zip(stacked, shapes))]


def _product(equation, values):
    (contracted, _), _ = equation.params['dimension_numbers']
    left, (out,) = equation.invars[0].aval.shape, equation.outvars
    return 2 * out.aval.size * math.prod(left[axis] for axis in contracted), _as_it_stands(equation, values)


def _convolution(equation, values):
    kernel, (out,) = equation.invars[1].aval.shape, equation.outvars
    features = kernel[equation.params['dimension_numbers'].rhs_spec[0]]
    return 2 * out.aval.size * math.prod(kernel) // features, _as_it_stands(equation, values)


def _other(equation, values):
    if any(_multiplies(body) for body in _bodies(equation)):
        raise NotImplementedError(f'no rule for products inside {equation.primitive.name}')
    return 0, _as_it_stands(equation, values)


_CALLS = ('jit', 'pjit', 'closed_call', 'remat2', 'checkpoint', 'custom_jvp_call', 'custom_vjp_call')
_RULES = {
    **dict.fromkeys(_CALLS, _call),
    'cond': _cond,
    'while': _while,
    'scan': _scan,
    'dot_general': _product,
    'conv_general_dilated': _convolution,
}


def _as_it_stands(equation, values):
    outputs = equation.primitive.bind(*values, **equation.primitive.get_bind_params(equation.params))
    return outputs if equation.primitive.multiple_results else [outputs]


def _multiplies(jaxpr):
    """Whether a closed jaxpr holds a product anywhere, in whatever branch."""
    return any(
        equation.primitive.name in ('dot_general', 'conv_general_dilated') or any(map(_multiplies, _bodies(equation)))
        for equation in jaxpr.jaxpr.eqns
    )


def _bodies(equation):
    """The closed jaxprs among the parameters of an equation."""
    values = [each for value in equation.params.values() for each in (value if isinstance(value, tuple | list) else [value])]
    bodies = [each for each in values if isinstance(each, Jaxpr | ClosedJaxpr)]
    return [each if isinstance(each, ClosedJaxpr) else ClosedJaxpr(each, ()) for each in bodies]
