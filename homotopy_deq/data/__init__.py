"""Images to learn from: data sets by name, splits that keep the classes' shares, and batches."""

from .augmentation import Augmentation
from .batches import EpochSampler, loader, seek
from .catalogue import DATASETS, DataSet, load
from .image_data import ImageData
from .image_files import read_images
from .stratified import split_validation, stratified_order

__all__ = [
    "DATASETS",
    "Augmentation",
    "DataSet",
    "EpochSampler",
    "ImageData",
    "load",
    "loader",
    "read_images",
    "seek",
    "split_validation",
    "stratified_order",
]
