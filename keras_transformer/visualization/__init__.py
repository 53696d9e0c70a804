"""Pictures of attention, positions, training and search; NumPy and matplotlib only."""

from typing import TYPE_CHECKING

from keras_transformer.backend import install_hint
from keras_transformer.lazy import lazy_names

try:
    import matplotlib  # noqa: F401  # pyright: ignore[reportUnusedImport]
except ImportError as error:
    raise ImportError(f"matplotlib is needed. {install_hint('train')}") from error

if TYPE_CHECKING:
    from keras_transformer.visualization.alignment import plot_alignment
    from keras_transformer.visualization.architecture import plot_architecture
    from keras_transformer.visualization.attention import (
        plot_attention,
        plot_attention_grid,
        plot_token_attention,
    )
    from keras_transformer.visualization.beam_search import plot_beam_search
    from keras_transformer.visualization.explorer import AttentionExplorer, explore_attention
    from keras_transformer.visualization.history import plot_history
    from keras_transformer.visualization.scores import plot_position_encoding, plot_similarity

_MODULES = {
    "AttentionExplorer": "explorer",
    "explore_attention": "explorer",
    "plot_alignment": "alignment",
    "plot_architecture": "architecture",
    "plot_attention": "attention",
    "plot_attention_grid": "attention",
    "plot_beam_search": "beam_search",
    "plot_history": "history",
    "plot_position_encoding": "scores",
    "plot_similarity": "scores",
    "plot_token_attention": "attention",
}

__all__ = [
    "AttentionExplorer",
    "explore_attention",
    "plot_alignment",
    "plot_architecture",
    "plot_attention",
    "plot_attention_grid",
    "plot_beam_search",
    "plot_history",
    "plot_position_encoding",
    "plot_similarity",
    "plot_token_attention",
]

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
