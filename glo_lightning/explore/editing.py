"""What the commands and the page make of codes: mixes, moves, strips between images, restored images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from PIL import Image
from torch import Tensor, nn

from glo_lightning.encoding import STARTS, TRIAL_STEPS, Loss, starting_codes
from glo_lightning.encoding import encode as search
from glo_lightning.errors import InputError, check_choice
from glo_lightning.explore.flow_path import EVENNESS, path_through
from glo_lightning.explore.metrics import generate
from glo_lightning.explore.operators import least_squares, nearest_behind, restored
from glo_lightning.explore.paths import WAYS, along, check_weights, mix, nearest, principal_axes
from glo_lightning.explore.pictures import picture
from glo_lightning.explore.trained_run import TrainedRun, UseEncoder, check_steps
from glo_lightning.images import to_uint8
from glo_lightning.priors.flow import FEWEST
from glo_lightning.priors.prior import default_prior


def default_way(trained: TrainedRun) -> str:
    """``flow`` where there are enough codes for one, else ``arc``."""
    return "flow" if default_prior(*trained.model.latents.weight.shape) == "flow" else "arc"


class Mixer:
    """Mixes of some images; their places, or the way between two of them, are found once.

    Args:
        trained: the run.
        codes: (M, D), of the images.
        way: ``flow``, ``line`` or ``arc``.
    """

    def __init__(self, trained: TrainedRun, codes: Tensor, way: str):
        self._codes, self._straight, self._project = codes, way == "line", trained.model.project
        self._prepared: dict[tuple[float, ...], Tensor] = {}
        self._path = None
        if way == "flow" and len(codes) == 2:
            self._path = path_through(trained.flow(), codes[0], codes[1], self._project)
        else:
            enter, self._leave = trained.chart(way)
            self._places = enter(codes)

    def __call__(self, weights: Sequence[float]) -> Tensor:
        """The code (D,) of the images mixed by these weights; of one with all the weight its own. See ``mix``."""
        weights = tuple(weights)
        return self._prepared[weights] if weights in self._prepared else self._mixes([weights])[0]

    def prepare(self, weights: Sequence[tuple[float, ...]]) -> None:
        """Finds the codes of several mixes at once: a flow takes hardly longer for many than for one."""
        self._prepared.update(zip(weights, self._mixes(weights), strict=True))

    def _mixes(self, weights: Sequence[tuple[float, ...]]) -> Tensor:
        if self._path is None:
            places = torch.stack([mix(self._places, some, self._straight) for some in weights])
            mixed = self._project(self._leave(places))
        else:
            for some in weights:
                check_weights(some, len(self._codes))
            fractions = torch.tensor([second / (first + second) for first, second in weights])
            mixed = along(self._path, fractions, EVENNESS)
        for code, some in zip(mixed, weights, strict=True):
            if max(some) == sum(some):
                code.copy_(self._codes[some.index(max(some))])
        return mixed


def interpolation(
    trained: TrainedRun, codes: Tensor, images: Tensor, ways: Sequence[str], steps: int
) -> tuple[Image.Image, Tensor, Tensor]:
    """The strip of each pair of images by each way.

    Args:
        trained: the run.
        codes: (2 P, D), of the starts and ends of P pairs in turn.
        images: (2 P, 3, H, W), theirs.
        ways: of ``flow``, ``line`` and ``arc``.
        steps: images in a row, the ends among them.

    Returns:
        The picture, the codes in it (P * ways * steps, D), and their images, (P * ways * steps, 3, H, W) in [-1, 1].
    """
    by_name = {name: WAYS[name] if name in WAYS else trained.flow_way() for name in ways}
    pairs = codes.unflatten(0, (-1, 2))
    project = trained.model.project
    paths = torch.cat([way(start, end, steps, project) for start, end in pairs for way in by_name.values()])
    made = generate(trained.model, paths).cpu()
    starts, goals = (images[end::2].repeat_interleave(len(ways), dim=0) for end in (0, 1))
    rows = [[start, "", *row, "", goal] for start, row, goal in zip(starts, made.split(steps), goals, strict=True)]
    columns = ["from", "  ", "its code", *[""] * (steps - 2), "its code", "  ", "to"]
    title = "Interpolation: the code of one image turns into that of another"
    return picture(rows, title, columns, [*by_name] * len(pairs)), paths, made


def directions(trained: TrainedRun, num_axes: int) -> dict[str, Tensor]:
    """The directions (D,) that a code can be moved in, by name.

    ``1``, ``2``, ... are the principal axes, each as long as the codes' standard deviation along it; ``name=value``
    leads from the mean code of the training images without that attribute to the mean of those with it.

    Raises:
        InputError: for more axes than dimensions.
    """
    table = trained.model.latents.weight.detach()
    found = {str(number): axis for number, axis in enumerate(principal_axes(table, num_axes), 1)}
    attributes = trained.found_data.attributes if trained.found_data else None
    if attributes is None:
        return found
    for column, (name, values) in enumerate(attributes.values.items()):
        numbers = attributes.table[: len(table), column].to(table.device)
        sums = table.new_zeros(len(values), table.shape[1]).index_add_(0, numbers, table)
        counts = numbers.bincount(minlength=len(values))
        for value, total, count in zip(values, sums, counts.tolist(), strict=True):
            if 0 < count < len(table):
                found[f"{name}={value}"] = total / count - (sums.sum(0) - total) / (len(table) - count)
    return found


def moved(origin: Tensor, along: Mapping[str, Tensor], moves: Sequence[tuple[str, float]]) -> Tensor:
    """The place ``origin`` (D,) moved along some directions, each so many times its length; not projected.

    Raises:
        InputError: for a direction that does not exist, or an amount that is not finite.
    """
    for name, amount in moves:
        if name not in along:
            axes = sum(direction.isdigit() for direction in along)
            attributes = ", or name=value of an attribute" if len(along) > axes else ""
            raise InputError("move", name, f"is no direction; give an axis from 1 to {axes}{attributes}")
        if not abs(amount) < float("inf"):
            raise InputError("move", f"{name}:{amount}", "is no finite amount; give a few standard deviations")
        origin = origin + amount * along[name]
    return origin


def nearest_rows(trained: TrainedRun, codes: Tensor, images: Tensor) -> tuple[list[int], list[int]]:
    """The training images nearest to codes (M, D) and, by pixels, to their images (M, C, H, W) in [-1, 1]."""
    table = trained.model.latents.weight
    by_code = nearest(codes, [(table, torch.arange(len(table)))])
    by_pixels = nearest(to_uint8(images), trained.data.ordered_dataloader())
    twins = trained.data.rows_per_image  # an image is shown, not its mirror image
    return (by_code - by_code % twins).tolist(), (by_pixels - by_pixels % twins).tolist()


def restoring_codes(
    trained: TrainedRun,
    pictures: Tensor,
    operator: nn.Module,
    starts: Sequence[str] = STARTS,
    steps: int = 150,
    encoder: UseEncoder = "auto",
    loss: Loss | None = None,
    prior_weight: float = 0.0,
    noise_sigma: float = 0.05,
    progress: bool = False,
) -> Tensor:
    """Codes (M, D) of the images that an operator made degraded pictures of.

    They are sought as ``TrainedRun.encode`` does it, their images seen through the operator. The starts ``pca`` and
    ``nearest`` and an encoder's answer look through it too: least squares among the principal components on what was
    seen, the training image whose picture is nearest, the code of what these least squares restore.

    With Gaussian noise of ``noise_sigma`` the logarithm of the codes' probability, given the picture of n numbers, is
    ``log p(z) - n / (2 sigma^2) * error(z)`` but for a constant; ``prior_weight`` is of the first term, whose density
    is the flow's, by 8 steps of the midpoint rule and 2 of Hutchinson's probes; see ``Flow.log_density``.

    Args:
        trained: the run.
        pictures: (M, c, h, h) in [-1, 1], of what is missing 0.
        operator: see ``operators.make_operator``.
        starts, steps, encoder: see ``TrainedRun.encode``.
        loss: of pictures; the mean squared error if not given.
        prior_weight: of the flow's log-density.
        noise_sigma: of what differs between a picture and the best generated one, in units of black to white.
        progress: shows a progress bar.

    Raises:
        InputError: for a prior without steps or with too few codes for a flow, no steps without an encoder, and as
            ``TrainedRun.encoder`` does.
    """
    model, table, found = trained.model, trained.model.latents.weight, trained.encoder(encoder)
    check_steps(steps, found)
    if prior_weight and steps < 1:
        raise InputError("prior_weight", prior_weight, "weighs steps of a descent; give --steps 10 or more")
    try:
        flow = trained.flow() if prior_weight else None
    except InputError as error:
        remedy = f"weighs the density of a flow, which needs {FEWEST} codes, not {len(table)}; give 0"
        raise InputError("prior_weight", prior_weight, remedy) from error
    operator, pictures, loss = operator.to(table.device), pictures.to(table.device), loss or nn.MSELoss()
    training = trained.training()
    by_pca, whole = least_squares(training, pictures, operator, table.shape[1], model.whiten, 2 * noise_sigma)
    first = []
    if found is not None:
        seen = restored(whole, pictures, operator).clamp(-1, 1)
        first.append(torch.cat([found(image[None], model) for image in seen]))
    if found is None or steps > TRIAL_STEPS:
        for name in starts:
            check_choice("starts", name, STARTS)
            if name == "pca":
                first.append(by_pca)
            elif name == "nearest":
                first.append(table[nearest_behind(training, pictures, operator).to(table.device)])
            else:
                first.append(starting_codes(table, training, whole, [name])[:, 0])
    codes = model.project(torch.stack(first, dim=1))
    if steps < 1:
        return codes[:, 0]
    weight = prior_weight * 2 * (2 * noise_sigma) ** 2 / pictures[0].numel()  # pixels go from -1 to 1
    penalty = None if flow is None else lambda codes: -weight * flow.log_density(codes, probes=2, steps=8)
    generator = nn.Sequential(model.generator, operator)
    return search(generator, pictures, codes, loss, model.project, steps, progress, penalty=penalty)
