"""The code of a published model, which MLflow stores with the bundle and runs when the model is loaded."""

from serving.release.registry import BundleModel, set_model

set_model(BundleModel())
