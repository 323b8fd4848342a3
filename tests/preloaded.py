"""What the process of tests/forked.py imports before it forks: what verbs need, and what transformers would import late.

Nothing is computed here: a fork of a process whose threads have begun would hang.
"""

from transformers import AutoConfig, AutoProcessor, LlamaForCausalLM, SmolVLMForConditionalGeneration, SmolVLMProcessor

import cloud_node.node
import cloud_node.worker.loading
import edge_node.privacy_report
import orchestrator.node
import splitvlm.evaluation.command
import splitvlm.tools.verify

__all__ = [
    "AutoConfig",
    "AutoProcessor",
    "LlamaForCausalLM",
    "SmolVLMForConditionalGeneration",
    "SmolVLMProcessor",
    "cloud_node",
    "edge_node",
    "orchestrator",
    "splitvlm",
]
