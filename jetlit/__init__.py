"""jetlit: Lightning-based, modular training recipes for PostNAS.

Importing it registers the hybrid with transformers' AutoConfig and AutoModelForCausalLM.
"""

from jetlit import models as models
