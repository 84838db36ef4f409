# SPDX-License-Identifier: Apache-2.0
"""An example script as one process of several that share a model (FSDP2) on CPUs; run by torchrun.

The settings are those of the YAML file that FSDP_CONFIG names. Accelerate takes several processes on CPUs for DDP;
here it is told otherwise.
"""

import os
import runpy
import sys

import torch.distributed as dist
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType


def main() -> None:
    settings = load_config_from_file(os.environ["FSDP_CONFIG"]).fsdp_config
    names = {"fsdp_transformer_layer_cls_to_wrap": "FSDP_TRANSFORMER_CLS_TO_WRAP"}
    os.environ |= {
        names.get(name, name.upper()): str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in settings.items()
    }
    os.environ |= {"ACCELERATE_USE_FSDP": "true", "ACCELERATE_USE_CPU": "true"}

    initialize = AcceleratorState.__init__

    def initialize_sharded(self, *args, **kwargs) -> None:
        initialize(self, *args, **kwargs)
        plugin = kwargs.get("fsdp_plugin") or self.__dict__.get("fsdp_plugin")
        if plugin is not None:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, plugin

    AcceleratorState.__init__ = initialize_sharded
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
    dist.barrier()
    # gloo's threads sometimes abort a process that tears them down
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
