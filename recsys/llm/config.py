"""Configuration of the finetune stage: the backbone, its full training where it is made from scratch, and LoRA."""

from typing import Literal

from pydantic import Field

from recsys.config import Config


class ScratchConfig(Config):
    """A small Qwen3-architecture model with a byte-level BPE trained on the catalogue."""

    hidden_size: int = Field(256, ge=16, description="width of the residual stream")
    num_layers: int = Field(4, ge=1)
    num_heads: int = Field(4, ge=1)
    head_dim: int = Field(64, ge=8)
    intermediate_size: int = Field(768, ge=16, description="width of the gated MLP")
    vocab_size: int = Field(4096, ge=300, description="BPE tokens of the text tokenizer")
    dropout: float = Field(0.1, ge=0, lt=1, description="on embeddings and on each block's two outputs, in training")


class TrainingConfig(Config):
    """One training of the language model, in full or of an adapter."""

    epochs: int = Field(10, ge=0)
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    warmup_ratio: float = Field(0.05, ge=0, lt=1, description="share of the steps before the peak learning rate")
    batch_tokens: int = Field(2048, ge=64, description="tokens of one batch, padding included")
    accumulation: int | None = Field(None, ge=1, description="batches of one optimizer step; none: 1")
    max_grad_norm: float = Field(1.0, gt=0, description="gradient norm")
    validate_every: int = Field(1, ge=1, description="epochs between validations")


class LoraConfig(TrainingConfig):
    """LoRA on all attention and MLP projections (LC-Rec's setting).

    The rows of code tokens and the vectors of items train besides, nothing else.
    """

    epochs: int = Field(1, ge=0)
    learning_rate: float = Field(3e-4, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    rank: int = Field(8, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.05, ge=0, lt=1)


class RefreshConfig(TrainingConfig):
    """Training the adapter of a finished run on, on interactions of a later period (`recsys refresh`).

    Rank, alpha and dropout are those of the adapter. The epoch is chosen by the NDCG@10 of validation users with new
    interactions and of others, in the shares of new and replayed examples.
    """

    epochs: int = Field(3, ge=0)
    learning_rate: float = Field(3e-4, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    replay: float = Field(
        0.5, ge=0, lt=1, description="share of an epoch's examples that are drawn from the parent's training histories"
    )
    held_out: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of the users with new interactions whose last two are held out; all others' are trained on",
    )
    report_users: int = Field(
        5000, ge=1, description="users of each group, drawn by the seed, that before and after are compared on"
    )


class FinetuneConfig(Config):
    """The language model: a `pretrained` causal LM by name or path, or one made from `scratch`."""

    pretrained: str | None = Field(None, description="name or path of a causal LM; none trains one from scratch")
    revision: str | None = Field(None, description="pinned revision of the pretrained model")
    scratch: ScratchConfig = ScratchConfig()
    items: Literal["tokens", "sum"] = Field(
        "tokens", description="an item of a history is read as its code tokens, or as their sum with a learned row"
    )
    item_loss: float = Field(1.0, gt=0, description="weight of the softmax over the catalogue, with items=sum")
    distillation: float = Field(
        0.0, ge=0, lt=1, description="share of the items' own distribution in what codes learn, with items=sum"
    )
    item_dropout: float = Field(
        0.1, ge=0, lt=1, description="share of items that a step reads and scores by their codes alone, with items=sum"
    )
    training: TrainingConfig = TrainingConfig()
    lora: LoraConfig = LoraConfig()
    max_text_tokens: int = Field(32, ge=1, description="a text field is cut to its first tokens")
    max_tokens: int = Field(
        512,
        ge=16,
        description="an over-long example loses its oldest items, not the answer; with items=sum without its branches",
    )
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    gradient_checkpointing: bool = False
    validation_users: int = Field(
        2000, ge=1, description="users that a validation decodes for; the rest wait for the test"
    )
    checkpoint_steps: int = Field(200, ge=1, description="steps between checkpoints")
    seed: int | None = Field(None, description="of this training alone; none: the run's")

    @property
    def residual_dropout(self) -> float:
        """That of a model made from scratch; a pretrained one keeps its own architecture."""
        return self.scratch.dropout if self.pretrained is None else 0.0
