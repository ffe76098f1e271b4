"""The methods of a backend that make policies, optimizers, scorers and language models."""

from typing import TYPE_CHECKING, Protocol

from common.backends.protocols import Optimizer, Policy, Scorer

if TYPE_CHECKING:
    from common.config import AdapterConfig, ModelConfig, OptimizerConfig
    from common.prompts.language import LanguageModel


class Factory(Protocol):
    """Makes models, and what trains and scores them."""

    def policy(self, model: "ModelConfig", adapter: "AdapterConfig", *, seed: int) -> Policy:
        """Load a model and attach the adapter, initialised from the seed (the same everywhere)."""
        ...

    def random_policy(
        self, model: "ModelConfig", adapter: "AdapterConfig", *, weights: bool = True
    ) -> Policy:
        """A published model at its full size with random weights; nothing is read or downloaded.

        weights: False gives one that is of use to `estimate` alone, and takes no memory.
        """
        ...

    def optimizer(self, policy: Policy, settings: "OptimizerConfig") -> Optimizer:
        """A fresh optimizer for the policy's trainable parameters."""
        ...

    def scorer(self, name: str) -> Scorer:
        """The embedded scorer of that name, "train" or "heldout": the same one at every call."""
        ...

    def language_model(self, name: str) -> "LanguageModel":
        """A causal language model by its folder or repository name.

        Raises common.prompts.language.LanguageModelError, in one line, when it cannot be loaded.
        """
        ...
