"""What this process runs on, in words: the processor, and the device that JAX computes with."""

import os
import platform


def processor() -> str:
    """The processor by its name, where the system tells it, and how many cores there are."""
    try:
        with open('/proc/cpuinfo', encoding='utf-8') as lines:
            named = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    except OSError:
        named = []
    return f'{named[0] if named else platform.machine()}, {os.cpu_count()} cores'


def device() -> str:
    """The kind of device that computes: an accelerator by its name, on a CPU the processor."""
    import jax  # not for those who only ask for the processor

    kind = jax.devices()[0].device_kind
    return processor() if jax.default_backend() == 'cpu' else kind
