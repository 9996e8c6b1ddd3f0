"""What every training stage shares: steps, EMA, checkpoints that resume exactly, validation, TensorBoard pictures."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections import OrderedDict
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from basicsr.metrics import calculate_metric
from basicsr.models.base_model import BaseModel
from basicsr.utils import get_root_logger, imwrite, tensor2img
from basicsr.utils.dist_util import master_only
from torch import Tensor, nn
from tqdm import tqdm

from lafr_arch.sizes import format_sizes, network_sizes
from lafr_base.files import share
from lafr_models.ema import ExponentialMovingAverage, load_trained, trained_state

_AMP = {"bf16": torch.bfloat16, "fp16": torch.float16}
_PICTURES = 4


def save_whole(value: Any, path: str | Path) -> None:
    """``torch.save`` that leaves either the whole file or none, also when interrupted."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        torch.save(value, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def log_sizes(network_g: dict[str, Any]) -> None:
    """Write the sizes of a LAFRNet's parts to the log."""
    if network_g["type"] == "LAFRNet":
        get_root_logger().info(f"Parameters\n{format_sizes(network_sizes(network_g))}")


class TrainingModel(BaseModel):
    """A BasicSR model that trains ``net_g``, perhaps against a discriminator ``net_d``.

    A stage implements :meth:`build`, :meth:`losses` and :meth:`restore`. Keys of ``train:`` read here:

    | key | meaning |
    | --- | --- |
    | optim_g, optim_d | ``type`` (a class of torch.optim), ``lr`` and its other arguments |
    | scheduler | as in BasicSR; left out: constant learning rate |
    | ema_decay | average of the trained parameters, used for validation and deployment; 0: none |
    | accumulate | micro-batches each batch is cut into, to save memory; 1 |
    | clip_grad_norm | largest norm of the gradient; 0: not clipped |
    | amp | ``bf16`` or ``fp16`` autocast; left out: fp32 |

    Randomness inside a step (noise, timesteps, crops) depends on ``manual_seed``, the iteration and the rank alone,
    so a resumed run continues as one that never stopped.
    """

    net_g: Any
    net_d: Any = None
    data: dict[str, Any]
    output: Tensor

    def __init__(self, opt: dict[str, Any]) -> None:
        super().__init__(opt)
        self.log_dict: dict[str, float] = OrderedDict()
        self.best_metric_results: dict[str, dict[str, dict[str, Any]]] = {}
        self.ema: ExponentialMovingAverage | None = None
        self._bar: tqdm[Any] | None = None
        self._resumed: dict[str, Any] = {}
        self.build()
        self.bare_g = self.get_bare_model(self.net_g)
        path = self.opt["path"].get("pretrain_network_g")
        if path is not None:
            self.load_network(self.net_g, path, self.opt["path"].get("strict_load_g", True), self._param_key())
        if self.is_train:
            self._init_training(path)

    # ---- what a stage defines -------------------------------------------------------------------------------------

    @abstractmethod
    def build(self) -> None:
        """Create ``self.net_g`` (its frozen parts with requires_grad False), perhaps ``self.net_d``, and the losses."""

    @abstractmethod
    def losses(self, data: dict[str, Any], current_iter: int) -> dict[str, Tensor]:
        """Weighted losses of one micro-batch, names starting with ``l_``; also sets ``self.output``."""

    @abstractmethod
    def restore(self, lq: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] -> the same size and range, for validation."""

    def discriminator_losses(self, data: dict[str, Any], current_iter: int) -> dict[str, Tensor]:
        """Losses of ``net_d`` on the micro-batch just seen by :meth:`losses`; none where there is no ``net_d``."""
        return {}

    def write_result(self, folder: Path) -> str | None:
        """Write what the stage is for into ``folder``, with averaged parameters in place, and return its name.

        Called once, at the end of training. By default there is nothing but the checkpoints.
        """
        return None

    # ---- set-up ---------------------------------------------------------------------------------------------------

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """Move a network to the device, in the memory format that convolutions run fastest in, and wrap it for DDP."""
        return super().model_to_device(net.to(memory_format=torch.channels_last))

    def _param_key(self) -> str:
        return self.opt["path"].get("param_key_g", "params")

    def _init_training(self, pretrained: str | None) -> None:
        train = self.opt["train"]
        self.accumulate = int(train.get("accumulate", 1))
        if self.accumulate < 1:
            raise ValueError(f"train: accumulate: {self.accumulate} must be at least 1")
        self.clip_grad_norm = float(train.get("clip_grad_norm", 0))
        amp = train.get("amp")
        if amp is not None and amp not in _AMP:
            raise ValueError(f"train: amp: {amp} is unknown; use bf16, fp16 or leave it out")
        self.amp_dtype = _AMP.get(amp)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=amp == "fp16")
        self.net_g.train()
        self.optimizer_g = self._optimizer("optim_g", self.net_g)
        if self.net_d is not None:
            self.net_d.train()
            self.optimizer_d = self._optimizer("optim_d", self.net_d)
        if train.get("scheduler") is not None:
            self.setup_schedulers()
        elif train.get("warmup_iter", -1) > 0:
            raise ValueError("train: warmup_iter: a warm-up needs a `scheduler`")
        if train.get("ema_decay", 0) > 0:
            self.ema = ExponentialMovingAverage(self.bare_g, train["ema_decay"])
        trainable = sum(p.numel() for p in self.bare_g.parameters() if p.requires_grad)
        frozen = sum(p.numel() for p in self.bare_g.parameters()) - trainable
        get_root_logger().info(f"{type(self.bare_g).__name__}: {trainable:,} parameters train, {frozen:,} are frozen")

    def _optimizer(self, key: str, net: nn.Module) -> torch.optim.Optimizer:
        options = dict(self.opt["train"].get(key) or {})
        if "type" not in options or "lr" not in options:
            raise ValueError(f"train: {key}: needs `type` and `lr`")
        parameters = [p for p in net.parameters() if p.requires_grad]
        if not parameters:
            raise ValueError(f"{type(net).__name__} has no parameter to train; check what the options freeze")
        optimizer = self.get_optimizer(options.pop("type"), parameters, **options)
        self.optimizers.append(optimizer)
        return optimizer

    # ---- a step ---------------------------------------------------------------------------------------------------

    def feed_data(self, data: dict[str, Any]) -> None:
        """Take a batch of the loader: ``lq`` and perhaps ``gt``, (B, 3, H, W) RGB in [0, 1]."""
        self.data = {k: v.to(self.device, non_blocking=True) if torch.is_tensor(v) else v for k, v in data.items()}

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = getattr(self, "amp_dtype", None)
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)

    def _micro_batches(self) -> list[dict[str, Any]]:
        size = len(next(v for v in self.data.values() if torch.is_tensor(v)))
        step = -(-size // self.accumulate)
        return [{k: v[i : i + step] for k, v in self.data.items()} for i in range(0, size, step)]

    def optimize_parameters(self, current_iter: int) -> None:
        """One optimizer step on the batch given to :meth:`feed_data`."""
        torch.manual_seed((self.opt["manual_seed"] * 1_000_003 + current_iter) * 1_009 + self.opt["rank"])
        parts = self._micro_batches()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        total: dict[str, Tensor] = OrderedDict()
        for i, part in enumerate(parts):
            share = len(next(v for v in part.values() if torch.is_tensor(v))) / len(
                next(v for v in self.data.values() if torch.is_tensor(v))
            )
            last = i == len(parts) - 1
            wait = nullcontext() if last or not hasattr(self.net_g, "no_sync") else self.net_g.no_sync()
            with wait:
                if self.net_d is not None:
                    self.net_d.requires_grad_(False)
                with self._autocast():
                    losses = self.losses(part, current_iter)
                self.scaler.scale(torch.stack(list(losses.values())).sum() * share).backward()
                if self.net_d is not None:
                    self.net_d.requires_grad_(True)
                    with self._autocast():
                        losses_d = self.discriminator_losses(part, current_iter)
                    if losses_d:
                        self.scaler.scale(torch.stack(list(losses_d.values())).sum() * share).backward()
                        losses = {**losses, **losses_d}
            for name, value in losses.items():
                total[name] = total.get(name, 0) + value.detach() * share
        self._step(total)
        self.log_dict = self.reduce_loss_dict(total)
        self._progress(current_iter)

    def _step(self, losses: dict[str, Tensor]) -> None:
        for optimizer in self.optimizers:
            parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            if self.clip_grad_norm > 0:
                self.scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(parameters, self.clip_grad_norm)
            self.scaler.step(optimizer)
        self.scaler.update()
        if self.ema is not None:
            self.ema.update()

    def _progress(self, current_iter: int) -> None:
        if self.opt["rank"] != 0:
            return
        if self._bar is None:
            total = int(self.opt["train"]["total_iter"])
            self._bar = tqdm(total=total, initial=current_iter - 1, desc=self.opt["name"], unit="it", disable=None)
        self._bar.update(1)
        self._bar.set_postfix({k: f"{v:.4f}" for k, v in self.log_dict.items()}, refresh=False)

    def averaged(self) -> AbstractContextManager[Any]:
        """Context in which ``net_g`` has the averaged parameters, where there are any."""
        return nullcontext() if self.ema is None else self.ema.applied()

    # ---- checkpoints ----------------------------------------------------------------------------------------------

    def checkpoint(self) -> dict[str, dict[str, Tensor]]:
        """What is saved of ``net_g``: the trained parts only, as ``params`` and, with EMA, ``params_ema``."""
        params = {name: value.detach().cpu() for name, value in trained_state(self.bare_g).items()}
        if self.ema is None:
            return {"params": params}
        return {
            "params": params,
            "params_ema": {name: value.cpu() for name, value in self.ema.state().items()},
        }

    @master_only
    def save(self, epoch: int, current_iter: int) -> None:
        """Write ``models/net_*_{iter}.pth`` and, but for the last (-1), ``training_states/{iter}.state``."""
        label = "latest" if current_iter == -1 else str(current_iter)
        models = Path(self.opt["path"]["models"])
        save_whole(self.checkpoint(), models / f"net_g_{label}.pth")
        if self.net_d is not None:
            save_whole({"params": self.get_bare_model(self.net_d).state_dict()}, models / f"net_d_{label}.pth")
        if current_iter == -1:
            if self._bar is not None:
                self._bar.close()
            with self.averaged():
                result = self.write_result(Path(self.opt["path"]["experiments_root"]))
            if result is not None:
                share(Path(self.opt["path"]["experiments_root"]) / result)
                get_root_logger().info(f"{result} written to {self.opt['path']['experiments_root']}")
            return
        state = {
            "epoch": epoch,
            "iter": current_iter,
            "optimizers": [o.state_dict() for o in self.optimizers],
            "schedulers": [s.state_dict() for s in self.schedulers],
            "scaler": self.scaler.state_dict(),
            "ema_steps": self.ema.steps if self.ema else 0,
            "best_metric_results": self.best_metric_results,
        }
        save_whole(state, Path(self.opt["path"]["training_states"]) / f"{current_iter}.state")

    def load_network(self, net: nn.Module, load_path: str, strict: bool = True, param_key: str = "params") -> None:
        """Load a checkpoint's parts into ``net``.

        Args:
            net: network, wrapped or not.
            load_path: a file written by :meth:`save`, or any BasicSR checkpoint.
            strict: refuse a file that lacks a trained parameter or holds an unknown one; else load what fits.
            param_key: ``params`` or ``params_ema``.
        """
        if not Path(load_path).is_file():
            raise FileNotFoundError(f"path: pretrain_network_*: {load_path} does not exist")
        bare = self.get_bare_model(net)
        count = load_trained(bare, load_path, (param_key, "params"), strict)
        get_root_logger().info(f"{type(bare).__name__}: {count} tensors from {load_path} [{param_key}]")

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        """Continue from a saved training state: optimizers, schedulers, EMA, scaler, discriminator, best metrics."""
        super().resume_training(resume_state)
        self.scaler.load_state_dict(resume_state.get("scaler", {}) or self.scaler.state_dict())
        self.best_metric_results = resume_state.get("best_metric_results", {})
        models = Path(self.opt["path"]["models"])
        if self.ema is not None:
            stored = torch.load(models / f"net_g_{resume_state['iter']}.pth", map_location="cpu", weights_only=True)
            self.ema.load(stored["params_ema"], resume_state["ema_steps"])
        if self.net_d is not None and "network_d" in (self.opt["path"].get("ignore_resume_networks") or []):
            return
        if self.net_d is not None:
            self.load_network(self.net_d, str(models / f"net_d_{resume_state['iter']}.pth"))

    # ---- validation -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def test(self) -> None:
        """Restore ``self.data['lq']`` with the averaged parameters, if there are any, into ``self.output``."""
        training = self.net_g.training
        self.net_g.eval()
        with self.averaged():
            self.output = self.restore(self.data["lq"])
        self.net_g.train(training)

    def validation(self, dataloader: Any, current_iter: Any, tb_logger: Any, save_img: bool = False) -> None:
        """Validate on a set; BasicSR counts past the last iteration before it validates at the end."""
        if self.is_train:
            current_iter = min(current_iter, int(self.opt["train"]["total_iter"]))
        super().validation(dataloader, current_iter, tb_logger, save_img)

    def dist_validation(self, dataloader: Any, current_iter: int, tb_logger: Any, save_img: bool) -> None:
        """Validate on the first process; the others wait."""
        if self.opt["rank"] == 0:
            self.nondist_validation(dataloader, current_iter, tb_logger, save_img)
        torch.distributed.barrier()

    def nondist_validation(self, dataloader: Any, current_iter: int, tb_logger: Any, save_img: bool) -> None:
        """Restore a set image by image; log the mean of each metric, save pictures, show some in TensorBoard."""
        name = dataloader.dataset.opt["name"]
        metrics = self.opt["val"].get("metrics") or {}
        if metrics:
            self._initialize_best_metric_results(name)
        sums = dict.fromkeys(metrics, 0.0)
        shown: list[Tensor] = []
        for data in tqdm(dataloader, desc=f"Validate {name}", unit="image", leave=False, disable=None):
            self.feed_data(data)
            self.test()
            images = {"img": tensor2img([self.output.cpu()])}
            if "gt" in data:
                images["img2"] = tensor2img([data["gt"]])
            for metric, options in metrics.items():
                sums[metric] += calculate_metric(images, options)
            stem = Path(data["lq_path"][0]).stem
            if save_img:
                imwrite(images["img"], str(self._picture_path(name, stem, current_iter)))
            if len(shown) < _PICTURES:
                row = [data["lq"], self.output.cpu(), *([data["gt"]] if "gt" in data else [])]
                shown.append(torch.cat([image.clamp(0, 1) for image in row], dim=3))
        self.metric_results = {metric: float(value / len(dataloader)) for metric, value in sums.items()}
        for metric, value in self.metric_results.items():
            self._update_best_metric_result(name, metric, value, current_iter)
        self._log_validation(name, current_iter, tb_logger)
        if tb_logger and shown:
            tb_logger.add_image(f"pictures/{name}", torch.cat(shown, dim=2)[0], current_iter)

    def _picture_path(self, dataset: str, stem: str, current_iter: int) -> Path:
        root = Path(self.opt["path"]["visualization"])
        if self.opt["is_train"]:
            return root / stem / f"{stem}_{current_iter}.png"
        return root / dataset / f"{stem}_{self.opt['val'].get('suffix') or self.opt['name']}.png"

    def _log_validation(self, dataset: str, current_iter: int, tb_logger: Any) -> None:
        if not self.metric_results:
            return
        lines = [f"Validation {dataset}"]
        for metric, value in self.metric_results.items():
            best = self.best_metric_results[dataset][metric]
            lines.append(f"\t # {metric}: {value:.4f}\tBest: {best['val']:.4f} @ {best['iter']} iter")
            if tb_logger:
                tb_logger.add_scalar(f"metrics/{dataset}/{metric}", value, current_iter)
        get_root_logger().info("\n".join(lines))

    def get_current_visuals(self) -> dict[str, Tensor]:
        """Pictures of the last validated image, on the CPU: ``lq``, ``result`` and perhaps ``gt``."""
        pictures = {"lq": self.data["lq"], "result": self.output}
        if "gt" in self.data:
            pictures["gt"] = self.data["gt"]
        return {name: value.detach().cpu() for name, value in pictures.items()}
