"""What a traced computation multiplies when it runs: the matrix products of its branches taken and its loops' rounds."""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Literal, jaxprs_in_params


def products(function, *args):
    """(operations of the matrix products that function(*args) executes, its result).

    2·M·N·K for each product and batch of it, as shaped, padding and all, in dot_general (matmul, einsum) and convolutions. Of
    a `cond` those of the branch that is taken, of a `while_loop` or `scan` those of each round. args: pytrees of arrays.
    """
    jaxpr, result = jax.make_jaxpr(function, return_shape=True)(*args)

    @jax.jit
    def run(leaves):
        count, values = _run(jaxpr, leaves)
        return jnp.asarray(count, jnp.int32), values

    count, values = run(jax.tree.leaves(args))
    return int(count), jax.tree.unflatten(jax.tree.structure(result), values)


def _run(jaxpr, inputs):
    """(products, outputs) of a closed jaxpr. The count is a number where no branch decides it, else a traced int32."""
    known = dict(zip((*jaxpr.jaxpr.constvars, *jaxpr.jaxpr.invars), (*jaxpr.consts, *inputs), strict=True))
    total = 0
    for equation in jaxpr.eqns:
        values = [each.val if isinstance(each, Literal) else known[each] for each in equation.invars]
        count, outputs = _RULES.get(equation.primitive.name, _other)(equation, values)
        total += count
        known.update(zip(equation.outvars, outputs, strict=True))
    return total, [each.val if isinstance(each, Literal) else known[each] for each in jaxpr.jaxpr.outvars]


def _other(equation, values):
    """An equation without a rule of its own: run as it stands, or what it calls where that is one jaxpr with products."""
    bodies = [_closed(each) for each in jaxprs_in_params(equation.params)]
    if not any(_multiplies(body.jaxpr) for body in bodies):
        return 0, _as_it_stands(equation, values)
    if equation.primitive.name not in _CALLS:
        raise NotImplementedError(f'no rule for products inside {equation.primitive.name}')
    return _run(bodies[0], values)


def _as_it_stands(equation, values):
    outputs = equation.primitive.bind(*values, **equation.primitive.get_bind_params(equation.params))
    return outputs if equation.primitive.multiple_results else [outputs]


def _product(equation, values):
    (contracted, _), _ = equation.params['dimension_numbers']
    left, (out,) = equation.invars[0].aval.shape, equation.outvars
    return 2 * out.aval.size * math.prod(left[axis] for axis in contracted), _as_it_stands(equation, values)


def _convolution(equation, values):
    kernel, (out,) = equation.invars[1].aval.shape, equation.outvars
    features = kernel[equation.params['dimension_numbers'].rhs_spec[0]]
    return 2 * out.aval.size * math.prod(kernel) // features, _as_it_stands(equation, values)


def _cond(equation, values):
    branches = [lambda *args, branch=branch: _counted(branch, args) for branch in equation.params['branches']]
    return lax.switch(values[0], branches, *values[1:])


def _while(equation, values):
    params = equation.params
    split = params['cond_nconsts'], params['cond_nconsts'] + params['body_nconsts']
    asked, constants, carry = values[: split[0]], values[split[0] : split[1]], values[split[1] :]
    if _multiplies(params['cond_jaxpr'].jaxpr):
        raise NotImplementedError('no rule for products in the condition of a loop')

    def unfinished(state):
        return _run(params['cond_jaxpr'], [*asked, *state[1]])[1][0]

    def body(state):
        count, outputs = _counted(params['body_jaxpr'], [*constants, *state[1]])
        return state[0] + count, outputs

    return lax.while_loop(unfinished, body, (jnp.int32(0), carry))


def _scan(equation, values):
    params = equation.params
    split = params['num_consts'], params['num_consts'] + params['num_carry']
    constants, carry, scanned = values[: split[0]], values[split[0] : split[1]], values[split[1] :]

    def body(state, each):
        count, outputs = _counted(params['jaxpr'], [*constants, *state[1], *each])
        return (state[0] + count, outputs[: params['num_carry']]), outputs[params['num_carry'] :]

    (count, carry), stacked = lax.scan(
        body, (jnp.int32(0), carry), scanned, length=params['length'], reverse=params['reverse'], unroll=params['unroll']
    )
    return count, [*carry, *stacked]


_RULES = {'dot_general': _product, 'conv_general_dilated': _convolution, 'cond': _cond, 'while': _while, 'scan': _scan}
_CALLS = ('jit', 'pjit', 'closed_call', 'remat2', 'checkpoint', 'custom_jvp_call', 'custom_vjp_call')


def _counted(jaxpr, inputs):
    """`_run` with the count as an array, as all branches and rounds must give it."""
    count, outputs = _run(jaxpr, inputs)
    return jnp.asarray(count, jnp.int32), outputs


def _multiplies(jaxpr):
    """Whether a jaxpr holds a product anywhere, in whatever branch."""
    return any(
        equation.primitive.name in ('dot_general', 'conv_general_dilated')
        or any(_multiplies(_closed(each).jaxpr) for each in jaxprs_in_params(equation.params))
        for equation in jaxpr.eqns
    )


def _closed(jaxpr):
    return jaxpr if isinstance(jaxpr, ClosedJaxpr) else ClosedJaxpr(jaxpr, ())
