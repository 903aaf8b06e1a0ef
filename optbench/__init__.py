"""optbench benchmarks optimizers: YAML sweep in, parquet out, tables that say how sure they are."""

__version__ = "0.1.0"
