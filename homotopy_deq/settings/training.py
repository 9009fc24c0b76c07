"""How a model is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from .declare import above, at_least, between, check, described, setting, within

Precision = Literal["no", "bf16"]
Schedule = Literal["cosine", "triangular"]


@described
@dataclass(frozen=True)
class SmoothTraining:
    """Say how to train a base classifier for randomized smoothing.

    Each image is seen under `samples` draws of N(0, sigma^2) noise in input units, added after
    the augmentation and not clipped. With `adversary_steps` the image is first moved within the
    l2 ball to where the smoothed classifier under these very draws does worst; with `consistency`
    the predictions under the draws are drawn together.

    References:
        J. Cohen, E. Rosenfeld, J. Z. Kolter (2019), Certified adversarial robustness via
        randomized smoothing.
        H. Salman, G. Yang, J. Li, P. Zhang, H. Zhang, I. Razenshteyn, S. Bubeck (2019), Provably
        robust deep learning via adversarially trained smoothed classifiers.
        J. Jeong, J. Shin (2020), Consistency regularization for certified robustness of smoothed
        classifiers.
    """

    PANEL: ClassVar[str] = "Training for certification by randomized smoothing"

    noise: float = setting(
        ...,
        "Train under Gaussian noise of this standard deviation, in units of images in [0, 1]. "
        "Validation is under noise too, so that the best epoch is that of what will be certified. "
        "Default: none.",
        above(0, "a standard deviation above 0, in units of images in [0, 1]"),
        metavar="SIGMA",
        advice=" Leave it out to train without noise.",
    )
    samples: int = setting(
        1,
        "Draws of noise an image and step; 2 under --consistency where it is not given.",
        at_least(1),
        option="noise_samples",
        metavar="M",
    )
    adversary_steps: int = setting(
        0,
        "SmoothAdv: learn from images that K steps of an attack on the smoothed classifier have "
        "moved; each step costs a solve and its gradient.",
        at_least(0),
        metavar="K",
    )
    adversary_radius: float = setting(
        0.0,
        "Radius of that attack's l2 ball, in units of images in [0, 1].",
        at_least(0),
        metavar="EPS",
    )
    consistency: float = setting(
        0.0,
        "Weight of the divergence between predictions under different noise.",
        at_least(0),
        metavar="LAMBDA",
    )
    entropy: float = setting(  # Jeong & Shin 2020, section 4
        0.5,
        "With --consistency, weight of the entropy of the mean prediction.",
        at_least(0),
        option="consistency_entropy",
        metavar="ETA",
    )

    def __post_init__(self) -> None:
        check(self)
        if (self.adversary_steps > 0) != (self.adversary_radius > 0):
            raise ValueError(
                "adversary_steps and adversary_radius must both be above 0, or neither; got "
                f"{self.adversary_steps} and {self.adversary_radius}."
            )
        if self.consistency > 0 and self.samples < 2:
            raise ValueError(
                "consistency compares predictions under several draws of noise, so noise_samples "
                f"must be at least 2; got {self.samples}."
            )


@described
@dataclass(frozen=True)
class TrainConfig:
    """Say how to train; what is trained, and on which data, is said elsewhere.

    The defaults are those of HomoODE's release for CIFAR-10, except for the number of epochs (300
    there), the validation split that it lacks, and the start's rates where there is a rest point:
    the release's teach it nothing. Images under `smoothing` are noisy in validation too, so that
    the best epoch is that of what is certified.

    References:
        S. Ding, T. Cui, J. Wang, Y. Shi (2023), Two sides of the same coin: bridging deep
        equilibrium models and neural ODEs via homotopy continuation.
    """

    PANEL: ClassVar[str] = "How it is trained"

    epochs: int = setting(10, "Passes over the train images.", at_least(1))
    batch: int = setting(64, "Images a part of a step, see --parts.", at_least(1))
    parts: int | None = setting(
        None,
        "Parts of a step, each of --batch images with random numbers of its own; the step is on "
        "their mean, and the processes share them. More than processes: to go on with more of "
        "them later, or in less memory. Default: one a process.",
        at_least(1),
    )
    lr: float = setting(1e-3, "Adam's first learning rate.", at_least(0))
    final_lr: float = setting(1e-6, "Its last one, at the end of the schedule.", at_least(0))
    schedule: Schedule = setting(
        "cosine",
        "cosine from --lr to --final-lr; triangular: from 0 to --lr in two fifths of the steps, to "
        "a twentieth of it in two more, and to --final-lr.",
    )
    beta1: float = setting(0.9, "Adam's decay of the mean gradient.", within(0, 1))
    beta2: float = setting(0.999, "Adam's decay of the mean squared gradient.", within(0, 1))
    clip: float | None = setting(
        None,
        "Largest norm of the gradient of a step; longer ones are shortened. Default: none.",
        above(0),
    )
    start_lr: float | None = setting(
        None,
        "SGD's first learning rate for the start: the share of the way to the mean of a batch's "
        "answers that a step goes; a cosine takes it to 0. Default: 0.2; 3e-4 for a flow without "
        "a rest point, whose end runs away from a start that follows it.",
        at_least(0),
    )
    start_every: int | None = setting(
        None,
        "Steps between two of the start. Default: 1; 20 for a flow without a rest point.",
        at_least(1),
    )
    validation: float = setting(
        0.1, "Share of the train images, held out, that chooses the best epoch.", between(0, 1)
    )
    residual_penalty: float = setting(
        0.0,
        "Weight of the squared relative residual at the end of the flow, which draws it to the "
        "equilibrium.",
        at_least(0),
    )
    jacobian_penalty: float = setting(
        0.0, "Weight of ||df/dz||_F^2 a dimension at the answer.", at_least(0)
    )
    offset: float = setting(
        0.0,
        "Taken from the logit of the right class before the cross entropy, which then asks for "
        "margins. For a model with a Lipschitz bound: 1.414.",
        at_least(0),
    )
    temperature: float = setting(
        1.0,
        "tau of the loss tau CE(logits / tau): small ones look at the nearest classes alone. For a "
        "model with a Lipschitz bound: 0.25.",
        above(0),
    )
    structure_penalty: float = setting(
        0.0,
        "Weight of the sum of |W| where the explicit network that an LBEN was made from has none.",
        at_least(0),
    )
    flip: float = setting(0.0, "Probability of mirroring a train image.")
    pad: int = setting(0, "Pixels of black around a train image before a random crop.")
    precision: Precision = setting("no", "no (float32) or bf16 (bfloat16 autocast).")
    seed: int = setting(
        0, "Of weights, split, order, augmentation, dropout; 0 or more.", at_least(0)
    )
    smoothing: SmoothTraining | None = None
    save_every: float = setting(
        30.0,
        "Seconds between checkpoints within an epoch; 0 saves after each batch.",
        at_least(0),
        panel="The run",
        decides=False,
    )

    def __post_init__(self) -> None:
        check(self)
