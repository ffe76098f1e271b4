"""Images of a run's model: which backend, which checkpoint, and the sampling itself."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from common import backends, consent
from common.adapters import low_rank
from common.algorithm import annealing
from common.backends import Backend, BackendUnavailableError, Policy
from common.errors import RequestError, existing, preparing
from common.evaluation import cads
from common.evaluation.records import Variant
from common.prompts import check_unicode
from common.runs import checkpoint
from common.runs.directory import RunDirectory
from common.sampling.ode import sample_images
from common.sampling.process import make_process
from common.workflows import options
from common.workflows.images import Images
from common.workflows.options import SampleOptions
from common.workflows.run import RunLike


@dataclass(frozen=True)
class Sampled:
    """Images, and what they were drawn with. label: of the checkpoint, for a file name."""

    images: Images
    run: RunDirectory
    label: str
    seed: int


def sample(
    run: RunLike,
    prompts: str | Sequence[str],
    *,
    count: int = 16,
    checkpoint: int | str = "latest",
    seed: int | None = None,
    scale: float = 1.0,
    prompt_noise: float = 0.0,
    aig: float = 0.0,
    backend: str | None = None,
    trust: bool = False,
) -> Images:
    """Draw images from a checkpoint of a run; the Python form of `drift sample`.

    The same seed and prompt give the same initial noise for every checkpoint, so that images can
    be compared one by one. Nothing is written; `images.save(path)` writes the picture.

    Args:
        run: a run, or the path of its folder.
        prompts: one or several; each is a row of the picture.
        count: images of each prompt.
        checkpoint: the update after which it was saved, "base" (the model before tuning) or
            "latest".
        seed: of the initial noise; None: the run's.
        scale: factor on the trained weights, in [0, 2].
        prompt_noise: strength of CADS at inference, in [0, 10].
        aig: exponent of annealed importance guidance, in [0, 100]; 0 is none.
        backend: "mlx", "cuda", "cpu" or "auto"; None: the run's if it works here, else the best.
        trust: let the run's configuration import the code that it names.

    Raises:
        drift.RequestError: a run, checkpoint, prompt, number or backend that is not there or not
            valid.
    """
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    with preparing():
        chosen = options.checked(
            options.SampleOptions,
            prompts=texts,
            count=count,
            seed=seed,
            scale=scale,
            prompt_noise=prompt_noise,
            aig=aig,
        )
    which = str(checkpoint)
    return draw(Path(run), chosen, which=which, backend=backend, trust=trust).images


def draw(
    path: Path, chosen: SampleOptions, *, which: str, backend: str | None, trust: bool
) -> Sampled:
    """What `sample` and the command share; which: "N", "base" or "latest"."""
    prompts = chosen.prompts
    with preparing(), consent.required_for(path, (), trust=trust):
        check_unicode(prompts, "--prompt")
        run = RunDirectory.open(path)
        settings = run.config
        seed = settings.run.seed if chosen.seed is None else chosen.seed
        variant, label = _variant(run, which, chosen)
        engine = choose_backend(backend, run)
        policy = engine.policy(settings.model, settings.adapter, seed=settings.run.seed)
        _restore(policy, engine, run, variant)
        policy.check(prompts)
    process = make_process(policy, settings.rollout, settings.evaluate.steps)
    images = sample_images(
        policy,
        engine,
        process,
        prompts,
        chosen.count,
        seed=seed,
        batch_size=settings.rollout.batch_size,
        perturb=cads.perturbation(engine, process, variant.prompt_noise),
        tuned_shares=annealing.tuned_shares(process.steps, variant.aig),
    )
    return Sampled(Images(images, prompts), run, label, seed)


def choose_backend(wanted: str | None, run: RunDirectory) -> Backend:
    """The backend asked for; without one the run's, or the best where the run's does not work here.

    A run may have been trained on another machine, with a backend that does not work here.
    """
    own = run.config.run.backend
    if wanted is None and own in backends.names():
        with suppress(BackendUnavailableError):
            return backends.load(own)
    return load_backend(wanted)


def load_backend(wanted: str | None) -> Backend:
    """The backend of a name; for None and "auto" the best one here. Raises as `backends.load`."""
    return backends.load(backends.best() if wanted in (None, "auto") else wanted)


def _variant(run: RunDirectory, which: str, chosen: SampleOptions) -> tuple[Variant, str]:
    """The weights and how they are sampled, and its label for a file name. RequestError."""
    scale, noise, aig = chosen.scale, chosen.prompt_noise, chosen.aig
    if which == "base":
        if scale != 1.0 or aig:
            option = "--scale" if scale != 1.0 else "--aig"
            raise RequestError(f"{option} has no effect on the model before tuning")
        variant = Variant(0, prompt_noise=noise)
        return variant, which + variant.suffix
    variant = Variant(int(checkpoint_path(run, which).name), scale, noise, aig)
    return variant, f"{variant.update:06d}{variant.suffix}"


def _restore(policy: Policy, backend: Backend, run: RunDirectory, variant: Variant) -> None:
    """Load the weights of a variant into the policy."""
    if not variant.update:
        return
    weights = checkpoint.load(run.checkpoints / f"{variant.update:06d}").weights
    if variant.scale != 1.0:
        base = {name: backend.to_numpy(value) for name, value in policy.parameters().items()}
        weights = low_rank.scaled(weights, base, run.config.adapter, variant.scale)
    policy.load_parameters(weights)


def checkpoint_path(run: RunDirectory, which: str) -> Path:
    """The folder of a checkpoint: after update `which`, or the latest. Raises RequestError."""
    path = checkpoint.latest(run.checkpoints)
    if which != "latest":
        if not which.isdecimal():
            raise RequestError(
                f"--checkpoint {which}: write the number of an update, base or latest"
            )
        path = run.checkpoints / f"{int(which):06d}"
        if not path.is_dir():
            known = existing(checkpoint.updates(run.checkpoints))
            raise RequestError(f"no checkpoint after update {int(which)} in {run.path}{known}")
    if path is None:
        raise RequestError(f"{run.path} has no checkpoint yet; --checkpoint base is there")
    return path
