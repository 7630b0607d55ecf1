"""Adaptive-depth text generation in JAX, with guarantees.

    import calm_jax as calm
    model = calm.load('DIR')
    outputs = model.generate(texts, exit=calm.Exit(calm.SoftmaxGap(), threshold=0.8), limits=calm.Limits(max_new_tokens=64))
    outputs = model.generate(texts, certificate='certificate.json')

Names are imported when first used: a report needs no JAX, and statistics need no model. `__version__` is the installed one.
"""

from importlib import import_module, metadata
from typing import TYPE_CHECKING

try:
    __version__ = metadata.version('calm_jax')
except metadata.PackageNotFoundError:  # a checkout that was never installed runs too
    __version__ = 'not installed'

if TYPE_CHECKING:  # what editors and type checkers see; a test compares it with what Python finds, below
    from calm_jax.calibrating import calibrate_model as calibrate_model
    from calm_jax.calibration import Calibration as Calibration
    from calm_jax.calibration import Certificate as Certificate
    from calm_jax.calibration import Point as Point
    from calm_jax.calibration import calibrate as calibrate
    from calm_jax.checkpoints.published import import_checkpoint as import_checkpoint
    from calm_jax.compilation import use_compilation_cache as use_compilation_cache
    from calm_jax.counting import count_file as count_file
    from calm_jax.decoding.choice import Beam as Beam
    from calm_jax.decoding.choice import Choice as Choice
    from calm_jax.decoding.choice import Greedy as Greedy
    from calm_jax.decoding.choice import Sampled as Sampled
    from calm_jax.decoding.decoding import Decoding as Decoding
    from calm_jax.decoding.decoding import Limits as Limits
    from calm_jax.decoding.generate import begin as begin
    from calm_jax.decoding.generate import decide as decide
    from calm_jax.decoding.generate import generate as generate
    from calm_jax.decoding.generate import insert as insert
    from calm_jax.decoding.generate import prefill as prefill
    from calm_jax.decoding.generate import step as step
    from calm_jax.decoding.packing import Packing as Packing
    from calm_jax.decoding.propagation import CopyKV as CopyKV
    from calm_jax.decoding.propagation import Eager as Eager
    from calm_jax.decoding.propagation import FirstState as FirstState
    from calm_jax.decoding.propagation import Lazy as Lazy
    from calm_jax.decoding.propagation import Propagation as Propagation
    from calm_jax.decoding.rows import Rows as Rows
    from calm_jax.decoding.rules import Rules as Rules
    from calm_jax.decoding.state import DecodeState as DecodeState
    from calm_jax.decoding.trace import trace_of as trace_of
    from calm_jax.depth.confidence import Classifier as Classifier
    from calm_jax.depth.confidence import Measure as Measure
    from calm_jax.depth.confidence import Oracle as Oracle
    from calm_jax.depth.confidence import SoftmaxGap as SoftmaxGap
    from calm_jax.depth.confidence import SoftmaxMax as SoftmaxMax
    from calm_jax.depth.confidence import StateSimilarity as StateSimilarity
    from calm_jax.depth.confidence import StaticDepth as StaticDepth
    from calm_jax.depth.confidence import VocabularyMeasure as VocabularyMeasure
    from calm_jax.depth.contrast import DivergentContrast as DivergentContrast
    from calm_jax.depth.contrast import WeightedContrast as WeightedContrast
    from calm_jax.depth.exits import Exit as Exit
    from calm_jax.depth.gates import Gate as Gate
    from calm_jax.depth.gates import ScriptedGate as ScriptedGate
    from calm_jax.depth.plans import FixedLayers as FixedLayers
    from calm_jax.depth.plans import GivenPlan as GivenPlan
    from calm_jax.depth.plans import PlanMaker as PlanMaker
    from calm_jax.depth.plans import RandomLayers as RandomLayers
    from calm_jax.depth.plans import Uniform as Uniform
    from calm_jax.depth.policy import PolicyPlan as PolicyPlan
    from calm_jax.depth.thresholds import Constant as Constant
    from calm_jax.depth.thresholds import Decaying as Decaying
    from calm_jax.depth.thresholds import ScaledDecaying as ScaledDecaying
    from calm_jax.depth.thresholds import ThresholdForm as ThresholdForm
    from calm_jax.depth.vocabulary import DecayingPruning as DecayingPruning
    from calm_jax.depth.vocabulary import FixedPruning as FixedPruning
    from calm_jax.depth.vocabulary import FrequentIds as FrequentIds
    from calm_jax.depth.vocabulary import Vocabulary as Vocabulary
    from calm_jax.depth.vocabulary import Whole as Whole
    from calm_jax.evaluation import evaluate_file as evaluate_file
    from calm_jax.model import Model as Model
    from calm_jax.model import load as load
    from calm_jax.models.config import TransformerConfig as TransformerConfig
    from calm_jax.options import array as array
    from calm_jax.options import option as option
    from calm_jax.output import Output as Output
    from calm_jax.output import Outputs as Outputs
    from calm_jax.pytrees import pytree as pytree
    from calm_jax.speed import measure_speed as measure_speed
    from calm_jax.stages import evaluate as evaluate
    from calm_jax.stages import report as report
    from calm_jax.stages import train as train
    from calm_jax.stages import train_exit_classifier as train_exit_classifier
    from calm_jax.sweep import points_of as points_of
    from calm_jax.training.jobs import PairedText as PairedText
    from calm_jax.training.optimizer import Optimizer as Optimizer
    from calm_jax.training.train_loop import LoopOptions as LoopOptions
    from calm_jax.types import Context as Context
    from calm_jax.types import Evidence as Evidence
    from calm_jax.types import Plan as Plan
    from calm_jax.types import Sizes as Sizes
    from calm_jax.types import Trace as Trace
    from calm_jax.types import Work as Work
else:
    _NAMES = {
        'calm_jax.calibrating': ('calibrate_model',),
        'calm_jax.calibration': ('Calibration', 'Certificate', 'Point', 'calibrate'),
        'calm_jax.checkpoints.published': ('import_checkpoint',),
        'calm_jax.compilation': ('use_compilation_cache',),
        'calm_jax.counting': ('count_file',),
        'calm_jax.decoding.choice': ('Beam', 'Choice', 'Greedy', 'Sampled'),
        'calm_jax.decoding.decoding': ('Decoding', 'Limits'),
        'calm_jax.decoding.generate': ('begin', 'decide', 'generate', 'insert', 'prefill', 'step'),
        'calm_jax.decoding.propagation': ('CopyKV', 'Eager', 'FirstState', 'Lazy', 'Propagation'),
        'calm_jax.decoding.packing': ('Packing',),
        'calm_jax.decoding.rows': ('Rows',),
        'calm_jax.decoding.rules': ('Rules',),
        'calm_jax.decoding.state': ('DecodeState',),
        'calm_jax.decoding.trace': ('trace_of',),
        'calm_jax.depth.confidence': (
            'Classifier',
            'Measure',
            'Oracle',
            'SoftmaxGap',
            'SoftmaxMax',
            'StateSimilarity',
            'StaticDepth',
            'VocabularyMeasure',
        ),
        'calm_jax.depth.contrast': ('DivergentContrast', 'WeightedContrast'),
        'calm_jax.depth.exits': ('Exit',),
        'calm_jax.depth.gates': ('Gate', 'ScriptedGate'),
        'calm_jax.depth.plans': ('FixedLayers', 'GivenPlan', 'PlanMaker', 'RandomLayers', 'Uniform'),
        'calm_jax.depth.policy': ('PolicyPlan',),
        'calm_jax.depth.thresholds': ('Constant', 'Decaying', 'ScaledDecaying', 'ThresholdForm'),
        'calm_jax.depth.vocabulary': ('DecayingPruning', 'FixedPruning', 'FrequentIds', 'Vocabulary', 'Whole'),
        'calm_jax.evaluation': ('evaluate_file',),
        'calm_jax.model': ('Model', 'load'),
        'calm_jax.models.config': ('TransformerConfig',),
        'calm_jax.options': ('array', 'option'),
        'calm_jax.output': ('Output', 'Outputs'),
        'calm_jax.pytrees': ('pytree',),
        'calm_jax.speed': ('measure_speed',),
        'calm_jax.stages': ('evaluate', 'report', 'train', 'train_exit_classifier'),
        'calm_jax.sweep': ('points_of',),
        'calm_jax.training.jobs': ('PairedText',),
        'calm_jax.training.optimizer': ('Optimizer',),
        'calm_jax.training.train_loop': ('LoopOptions',),
        'calm_jax.types': ('Context', 'Evidence', 'Plan', 'Sizes', 'Trace', 'Work'),
    }
    _MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}
    __all__ = sorted(_MODULE_OF)

    def __getattr__(name):
        if name not in _MODULE_OF:
            raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
        return getattr(import_module(_MODULE_OF[name]), name)

    def __dir__():
        return ['__version__', *__all__]
