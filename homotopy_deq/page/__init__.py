"""A page in which a person sees how solvers reach the answer for an image, and what is certified.

`describe` computes what an image's part of the page shows, and `render` writes the page: one HTML
file that holds its data, its drawing and its style, and asks for nothing else.
"""

from .describe import certain, describe, noisy
from .figures import Branch, Certificate, Equilibrium, Page, Picture, Votes, Way
from .paths import follow, traced, trajectory
from .render import embedded, render

__all__ = [
    "Branch",
    "Certificate",
    "Equilibrium",
    "Page",
    "Picture",
    "Votes",
    "Way",
    "certain",
    "describe",
    "embedded",
    "follow",
    "noisy",
    "render",
    "traced",
    "trajectory",
]
