"""Butcher tableaus of explicit Runge-Kutta methods."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isclose


@dataclass(frozen=True)
class Tableau:
    """One explicit Runge-Kutta method.

        k_i = f(t + c_i h, z + h sum_j a_ij k_j),   z(t + h) = z + h sum_i b_i k_i.

    Arguments:
        name: the method's.
        order: of z(t + h).
        c: nodes of the stages from the second on; the first is k_1 = f(t, z).
        a: a row for each of them.
        b: weights of all s stages.
        error: weights b - b^ of the embedded error estimate, s of the stages and one of
            f(t + h, z(t + h)), which is k_1 of the next step; () where the method has none.

    Raises:
        ValueError: the lengths do not fit, a row does not sum to its node, or b not to 1.
    """

    name: str
    order: int
    c: tuple[float, ...] = field(repr=False)
    a: tuple[tuple[float, ...], ...] = field(repr=False)
    b: tuple[float, ...] = field(repr=False)
    error: tuple[float, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        lengths = [len(row) for row in self.a]
        sums = [*zip(self.a, self.c, strict=False), (self.b, 1.0), (self.error, 0.0)]
        if (
            lengths != list(range(1, len(self.b)))
            or len(self.c) != len(self.a)
            or len(self.error) not in (0, len(self.b) + 1)
            or not all(isclose(sum(row), total, abs_tol=1e-13) for row, total in sums)
        ):
            raise ValueError(
                f"Tableau {self.name}: a needs rows of 1, 2, ... entries that sum to their c; b "
                "one entry more than c, that sum to 1; error one more than b, that sum to 0."
            )


def _embedded(
    name: str,
    order: int,
    c: tuple[float, ...],
    a: tuple[tuple[float, ...], ...],
    other: tuple[float, ...],
) -> Tableau:
    """Return the pair of b, the last row of a, and `other`, the weights of the second method."""
    *rows, b = a
    error = tuple(x - y for x, y in zip((*b, 0.0), other, strict=True))
    return Tableau(name, order, c, tuple(rows), b, error)


# fmt: off
EULER = Tableau("euler", 1, (), (), (1.0,))
"""L. Euler (1768)."""

MIDPOINT = Tableau("midpoint", 2, (1 / 2,), ((1 / 2,),), (0.0, 1.0))
"""C. Runge (1895), Über die numerische Auflösung von Differentialgleichungen."""

HEUN = Tableau("heun", 2, (1.0,), ((1.0,),), (1 / 2, 1 / 2))
"""K. Heun (1900), the trapezoidal rule with a predictor."""

RK4 = Tableau("rk4", 4, (1 / 2, 1 / 2, 1.0), ((1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)), (1 / 6,
    1 / 3, 1 / 3, 1 / 6))
"""W. Kutta (1901), the classical method."""

BOSH3 = _embedded("bosh3", 3, (1 / 2, 3 / 4), (
    (1 / 2,),
    (0.0, 3 / 4),
    (2 / 9, 1 / 3, 4 / 9),
), (7 / 24, 1 / 4, 1 / 3, 1 / 8))
"""P. Bogacki, L. Shampine (1989), A 3(2) pair of Runge-Kutta formulas."""

# The second weights are those of L. Shampine (1986), Some practical Runge-Kutta formulas.
DOPRI5 = _embedded("dopri5", 5, (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0), (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
), (1951 / 21600, 0.0, 22642 / 50085, 451 / 720, -12231 / 42400, 649 / 6300, 1 / 60))
"""J. R. Dormand, P. J. Prince (1980), A family of embedded Runge-Kutta formulae."""

TSIT5 = _embedded("tsit5", 5, (0.161, 0.327, 0.9, 0.9800255409045097, 1.0), (
    (0.161,),
    (-0.008480655492356989, 0.335480655492357),
    (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
    (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
    (5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401,
     -0.028269050394068383),
    (0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081,
     2.324710524099774),
), (0.09468075576583945, 0.009183565540343254, 0.4877705284247616, 1.234297566930479,
    -2.7077123499835256, 1.866628418170587, 1 / 66))
"""Ch. Tsitouras (2011), Runge-Kutta pairs of order 5(4) satisfying only the first column
simplifying assumption."""

DOPRI8 = _embedded("dopri8", 8, (1 / 18, 1 / 12, 1 / 8, 5 / 16, 3 / 8, 59 / 400, 93 / 200,
    5490023248 / 9719169821, 13 / 20, 1201146811 / 1299019798, 1.0, 1.0), (
    (1 / 18,),
    (1 / 48, 1 / 16),
    (1 / 32, 0.0, 3 / 32),
    (5 / 16, 0.0, -75 / 64, 75 / 64),
    (3 / 80, 0.0, 0.0, 3 / 16, 3 / 20),
    (29443841 / 614563906, 0.0, 0.0, 77736538 / 692538347, -28693883 / 1125000000,
     23124283 / 1800000000),
    (16016141 / 946692911, 0.0, 0.0, 61564180 / 158732637, 22789713 / 633445777,
     545815736 / 2771057229, -180193667 / 1043307555),
    (39632708 / 573591083, 0.0, 0.0, -433636366 / 683701615, -421739975 / 2616292301,
     100302831 / 723423059, 790204164 / 839813087,
     800635310 / 3783071287),
    (246121993 / 1340847787, 0.0, 0.0, -37695042795 / 15268766246, -309121744 / 1061227803,
     -12992083 / 490766935, 6005943493 / 2108947869,
     393006217 / 1396673457, 123872331 / 1001029789),
    (-1028468189 / 846180014, 0.0, 0.0, 8478235783 / 508512852, 1311729495 / 1432422823,
     -10304129995 / 1701304382, -48777925059 / 3047939560,
     15336726248 / 1032824649, -45442868181 / 3398467696, 3065993473 / 597172653),
    (185892177 / 718116043, 0.0, 0.0, -3185094517 / 667107341, -477755414 / 1098053517,
     -703635378 / 230739211, 5731566787 / 1027545527,
     5232866602 / 850066563, -4093664535 / 808688257, 3962137247 / 1805957418,
    65686358 / 487910083),
    (403863854 / 491063109, 0.0, 0.0, -5068492393 / 434740067, -411421997 / 543043805,
     652783627 / 914296604, 11173962825 / 925320556,
     -13158990841 / 6184727034, 3936647629 / 1978049680, -160528059 / 685178525,
    248638103 / 1413531060, 0.0),
    (14005451 / 335480064, 0.0, 0.0, 0.0, 0.0, -59238493 / 1068277825, 181606767 / 758867731,
     561292985 / 797845732, -1041891430 / 1371343529,
     760417239 / 1151165299, 118820643 / 751138087, -528747749 / 2220607170, 1 / 4),
), (13451932 / 455176623, 0.0, 0.0, 0.0, 0.0, -808719846 / 976000145, 1757004468 / 5645159321,
    656045339 / 265891186, -3867574721 / 1518517206,
    465885868 / 322736535, 53011238 / 667516719, 2 / 45, 0.0, 0.0))
"""P. J. Prince, J. R. Dormand (1981), High order embedded Runge-Kutta formulae, RK8(7)13M."""
# fmt: on
