"""Models in transformers' conventions: the hybrid decoder, its cache, teachers, architectures and the super network."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from jetlit.errors import moved_names
from jetlit.models.architecture import Architecture, check_budget, uniform_layers
from jetlit.models.cache import HybridCache
from jetlit.models.configuration import JetNemotronConfig
from jetlit.models.conversion import freeze_all_but_mixers, hybridize
from jetlit.models.decoder_layer import LayerInputs
from jetlit.models.families import register_family
from jetlit.models.loading import load_model
from jetlit.models.modeling import JetNemotronForCausalLM, JetNemotronModel
from jetlit.models.output_fit import fit_outputs
from jetlit.models.supernet import SuperNetwork

AutoConfig.register(JetNemotronConfig.model_type, JetNemotronConfig, exist_ok=True)
AutoModel.register(JetNemotronConfig, JetNemotronModel, exist_ok=True)
AutoModelForCausalLM.register(JetNemotronConfig, JetNemotronForCausalLM, exist_ok=True)
# By this name transformers' trainer knows that labels are to be shifted when it smooths them.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[JetNemotronConfig.model_type] = JetNemotronForCausalLM.__name__

__all__ = [
    "Architecture",
    "HybridCache",
    "JetNemotronConfig",
    "JetNemotronForCausalLM",
    "JetNemotronModel",
    "LayerInputs",
    "SuperNetwork",
    "check_budget",
    "fit_outputs",
    "freeze_all_but_mixers",
    "hybridize",
    "load_model",
    "register_family",
    "uniform_layers",
]

__getattr__ = moved_names(
    __name__,
    {
        "load_teacher": "is load_model now",
        "hybridise": "is hybridize now",
    },
)
