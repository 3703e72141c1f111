"""jetlit: Lightning-based, modular training recipes for PostNAS.

Importing it registers the hybrid with transformers' AutoConfig and AutoModelForCausalLM, and the byte tokenizer with
AutoTokenizer.
"""

import jetlit_data.tokenizer  # noqa: F401 (registers ByteTokenizer)

from jetlit import models as models
