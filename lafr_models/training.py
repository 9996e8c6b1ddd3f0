"""What every training stage shares: steps, EMA, checkpoints that resume exactly, validation, TensorBoard pictures."""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
from basicsr.utils import get_root_logger
from basicsr.utils.dist_util import master_only
from torch import Tensor, nn
from tqdm import tqdm

from lafr_arch.sizes import format_sizes, network_sizes
from lafr_base.checkpoints import read_state
from lafr_base.files import share, whole
from lafr_base.option_keys import REQUIRED, Key
from lafr_models.ema import ExponentialMovingAverage, load_trained, trained_state
from lafr_models.optimizing import AMP, training_faults
from lafr_models.resuming import training_options
from lafr_models.stage_keys import StageKeys
from lafr_models.training_time import Stopwatch, write_record
from lafr_models.validating import ValidatingModel


def save_whole(value: Any, path: str | Path) -> None:
    """``torch.save`` that leaves either the whole file or none, also when interrupted."""
    with whole(Path(path)) as part:
        torch.save(value, part)


class TimeIsUp(Exception):  # noqa: N818 - no error
    """A run has trained for its ``max_seconds``.

    Attributes:
        model: what it trained.
    """

    def __init__(self, model: TrainingModel) -> None:
        super().__init__(f"{model.max_seconds:g} seconds of training are over")
        self.model = model


def log_sizes(network_g: dict[str, Any]) -> None:
    """Write the sizes of a LAFRNet's parts to the log."""
    if network_g["type"] == "LAFRNet":
        get_root_logger().info(f"Parameters\n{format_sizes(network_sizes(network_g))}")


class TrainingModel(StageKeys, ValidatingModel):
    """A BasicSR model that trains ``net_g``, perhaps against a discriminator ``net_d``.

    A stage implements :meth:`build`, :meth:`losses` and :meth:`restore`, and declares its options, as the class
    attributes of :class:`~lafr_models.stage_keys.StageKeys` say.

    Randomness inside a step (noise, timesteps, crops) depends on ``manual_seed``, the iteration and the rank alone,
    so a resumed run continues as one that never stopped.
    """

    TRAIN_KEYS: ClassVar[tuple[Key, ...]] = (
        Key("optim_g", Mapping, REQUIRED, "optimizer: `type` (a class of torch.optim), `lr` and its other arguments"),
        Key("scheduler", Mapping, None, "learning rate over time, as in BasicSR; left out: it stays"),
        Key("ema_decay", float, 0, "average of the trained parameters, for validation and deployment; 0: none"),
        Key("accumulate", int, 1, "micro-batches each batch is cut into, to save memory"),
        Key("clip_grad_norm", float, 0, "largest norm of an optimizer's gradient; 0: not clipped"),
        Key("amp", str, None, "bf16 or fp16 autocast; left out: fp32"),
        Key(
            "max_seconds", float, 0, "seconds of training, over all parts of a run, after which it ends; 0: no such end"
        ),
    )

    net_d: Any = None

    def __init__(self, opt: dict[str, Any]) -> None:
        super().__init__(opt)
        self._training_options = training_options(opt)  # as they are before BasicSR takes them apart
        self.log_dict: dict[str, float] = OrderedDict()
        self.best_metric_results: dict[str, dict[str, dict[str, Any]]] = {}
        self.ema: ExponentialMovingAverage | None = None
        self._bar: tqdm[Any] | None = None
        self.stopwatch = Stopwatch()
        faults = self.faults(opt)
        if faults:
            raise ValueError("\n".join(faults))
        self.build()
        self.bare_g = self.get_bare_model(self.net_g)
        path = self.opt["path"].get("pretrain_network_g")
        if path is not None:
            self.load_network(self.net_g, path, self.opt["path"].get("strict_load_g", True), self._param_key())
        if self.is_train:
            self._init_training(path)

    @classmethod
    def faults(cls, opt: Mapping[str, Any]) -> list[str]:
        """Also what is wrong with the optimizers' options."""
        return [*super().faults(opt), *training_faults(opt.get("train") or {})]

    # ---- what a stage defines -------------------------------------------------------------------------------------

    @abstractmethod
    def build(self) -> None:
        """Create ``self.net_g`` (its frozen parts with requires_grad False), perhaps ``self.net_d``, and the losses."""

    @abstractmethod
    def losses(self, data: dict[str, Any], current_iter: int) -> dict[str, Tensor]:
        """Weighted losses of one micro-batch, names starting with ``l_``; also sets ``self.output``."""

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
        if any(parameter.dim() == 5 for parameter in net.parameters()):
            return super().model_to_device(net)  # torch knows no such format for them
        return super().model_to_device(net.to(memory_format=torch.channels_last))

    def _param_key(self) -> str:
        return self.opt["path"].get("param_key_g", "params")

    def _init_training(self, pretrained: str | None) -> None:
        self.accumulate = self.option("accumulate")
        self.clip_grad_norm = self.option("clip_grad_norm")
        self.max_seconds = self.option("max_seconds")
        amp = self.option("amp")
        self.amp_dtype = AMP.get(amp)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=amp == "fp16")
        self.net_g.train()
        self.optimizer_g = self._optimizer("optim_g", self.net_g)
        if self.net_d is not None:
            self.net_d.train()
            self.optimizer_d = self._optimizer("optim_d", self.net_d)
        if self.option("scheduler") is not None:
            self.setup_schedulers()
        if self.option("ema_decay") > 0:
            self.ema = ExponentialMovingAverage(self.bare_g, self.option("ema_decay"))
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
        self.stopwatch.start()
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
        if self.max_seconds > 0 and self._time_is_up():
            self.opt["train"]["total_iter"] = current_iter  # there are no more
            raise TimeIsUp(self)

    def _time_is_up(self) -> bool:
        """Whether ``max_seconds`` are over for any of the processes, which end together."""
        over = torch.tensor(float(self.stopwatch.total >= self.max_seconds), device=self.device)
        if self.opt["dist"]:
            torch.distributed.all_reduce(over, torch.distributed.ReduceOp.MAX)
        return bool(over)

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
        self._write_record(current_iter)
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
            "options": self._training_options,
            "seconds": self.stopwatch.total,
        }
        save_whole(state, Path(self.opt["path"]["training_states"]) / f"{current_iter}.state")

    def _write_record(self, current_iter: int) -> None:
        trainable = sum(p.numel() for p in self.bare_g.parameters() if p.requires_grad)
        done = int(self.opt["train"]["total_iter"]) if current_iter == -1 else current_iter
        write_record(self.opt, done, self.stopwatch.total, trainable)

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
        """Continue from a saved training state: optimizers, schedulers, EMA, scaler, discriminator, best metrics.

        With ``path: resume_changed: true`` learning rates and schedules are those of the option file, at the iteration
        that the state has reached; otherwise they are the saved ones, which are the same.
        """
        self.stopwatch = Stopwatch(float(resume_state.get("seconds", 0)))
        for line in self.opt.get("resume_differences", []):
            get_root_logger().warning(f"Resuming: {line}")
        if self.opt["path"].get("resume_changed"):
            self._resume_with_new_options(resume_state)
        else:
            super().resume_training(resume_state)
        self.scaler.load_state_dict(resume_state.get("scaler", {}) or self.scaler.state_dict())
        self.best_metric_results = resume_state.get("best_metric_results", {})
        models = Path(self.opt["path"]["models"])
        if self.ema is not None:
            averaged = read_state(models / f"net_g_{resume_state['iter']}.pth", "params_ema")
            self.ema.load(averaged, resume_state["ema_steps"])
        if self.net_d is not None and "network_d" in (self.opt["path"].get("ignore_resume_networks") or []):
            return
        if self.net_d is not None:
            self.load_network(self.net_d, str(models / f"net_d_{resume_state['iter']}.pth"))

    def _resume_with_new_options(self, resume_state: dict[str, Any]) -> None:
        """Take the optimizers' moments from a state, and learning rates and schedules from the option file."""
        for optimizer, saved in zip(self.optimizers, resume_state["optimizers"], strict=True):
            optimizer.load_state_dict({**saved, "param_groups": optimizer.state_dict()["param_groups"]})
        for scheduler in self.schedulers:
            for _ in range(resume_state["iter"] - 1):  # the first iteration takes no step
                scheduler.step()
