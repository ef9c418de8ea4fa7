"""Rotations of robot actions: axis-angle, matrices and the continuous 6-D form (Zhou et al. 2019).

The 6-D form is the first two *rows* of the rotation matrix, one after the other, which is what
PyTorch3D and therefore Diffusion Policy (Chi et al. 2023) mean by it. An action of one arm is

    control   (7,)   position (m), axis-angle (rad), gripper     what robosuite's controller takes
    learned  (10,)   position (m), 6-D rotation,     gripper     what policies train on

and the actions of several arms stand side by side. Axis-angle jumps where the angle passes pi,
which is where a hand that points down is; the 6-D form does not.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pcm_policy.errors import PcmError

Floats = NDArray[np.float64]

CONTROL_DIM, LEARNED_DIM = 7, 10  # of one arm


def axis_angle_to_matrix(vectors: ArrayLike) -> Floats:
    """Return rotation matrices (..., 3, 3) of axis-angle vectors (..., 3), rad (Rodrigues)."""
    vector = np.asarray(vectors, np.float64)
    angle = np.linalg.norm(vector, axis=-1)[..., None, None]
    x, y, z = np.moveaxis(vector, -1, 0)
    zero = np.zeros_like(x)
    rows = [zero, -z, y, z, zero, -x, -y, x, zero]
    cross = np.stack(rows, axis=-1).reshape(*x.shape, 3, 3)
    # np.sinc(t) is sin(pi t) / (pi t), whole at 0
    once = np.sinc(angle / np.pi)
    twice = 0.5 * np.sinc(angle / (2 * np.pi)) ** 2
    return np.asarray(np.eye(3) + once * cross + twice * (cross @ cross))


def matrix_to_axis_angle(matrices: ArrayLike) -> Floats:
    """Return axis-angle vectors (..., 3), angles in [0, pi], of rotation matrices (..., 3, 3).

    At an angle of exactly pi both axes are right; one of them is returned.
    """
    quaternion = _matrix_to_quaternion(np.asarray(matrices, np.float64))
    vector, real = quaternion[..., 1:], quaternion[..., :1]
    sine = np.linalg.norm(vector, axis=-1, keepdims=True)
    angle = 2 * np.arctan2(sine, real)
    small = sine < 1e-12
    return np.asarray(vector * np.where(small, 2.0, angle / np.where(small, 1.0, sine)))


def _matrix_to_quaternion(matrix: Floats) -> Floats:
    """Return unit quaternions (..., 4), real part first and not negative (Bar-Itzhack 2000).

    Of the four rows of q q^T, which a matrix gives, the one with the largest diagonal is taken.
    """
    m = np.moveaxis(matrix, (-2, -1), (0, 1))
    trace = m[0, 0] + m[1, 1] + m[2, 2]
    products = np.empty((*matrix.shape[:-2], 4, 4))
    products[..., 0, 0] = 1 + trace
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        products[..., i + 1, i + 1] = 1 + 2 * m[i, i] - trace
        products[..., 0, i + 1] = products[..., i + 1, 0] = m[k, j] - m[j, k]
        products[..., i + 1, j + 1] = products[..., j + 1, i + 1] = m[j, i] + m[i, j]
    largest = np.argmax(np.diagonal(products, axis1=-2, axis2=-1), axis=-1)
    row = np.take_along_axis(products, largest[..., None, None], axis=-2)[..., 0, :]
    quaternion = row / np.linalg.norm(row, axis=-1, keepdims=True)
    return np.asarray(np.where(quaternion[..., :1] < 0, -quaternion, quaternion))


def matrix_to_sixd(matrices: ArrayLike) -> Floats:
    """Return the 6-D form (..., 6) of rotation matrices (..., 3, 3)."""
    matrix = np.asarray(matrices, np.float64)
    return matrix[..., :2, :].reshape(*matrix.shape[:-2], 6)


def sixd_to_matrix(values: ArrayLike) -> Floats:
    """Return the rotation matrices (..., 3, 3) nearest in Gram-Schmidt's sense to (..., 6).

    Any six numbers will do whose halves are neither zero nor parallel.
    """
    rows = np.asarray(values, np.float64)
    first = _unit(rows[..., :3])
    second = rows[..., 3:]
    second = _unit(second - (first * second).sum(axis=-1, keepdims=True) * first)
    return np.stack([first, second, np.cross(first, second)], axis=-2)


def _unit(vector: Floats) -> Floats:
    return np.asarray(vector / np.maximum(np.linalg.norm(vector, axis=-1, keepdims=True), 1e-12))


def to_learned(control: ArrayLike) -> Floats:
    """Turn absolute actions (..., 7 * arms) into what policies train on, (..., 10 * arms).

    Raises:
        PcmError: the width is no multiple of seven.
    """
    arms = _arms(np.asarray(control, np.float64), CONTROL_DIM)
    sixd = matrix_to_sixd(axis_angle_to_matrix(arms[..., 3:6]))
    return _flat(np.concatenate([arms[..., :3], sixd, arms[..., 6:]], axis=-1))


def to_control(learned: ArrayLike) -> Floats:
    """Turn a policy's actions (..., 10 * arms) into absolute actions (..., 7 * arms).

    Raises:
        PcmError: the width is no multiple of ten.
    """
    arms = _arms(np.asarray(learned, np.float64), LEARNED_DIM)
    vector = matrix_to_axis_angle(sixd_to_matrix(arms[..., 3:9]))
    return _flat(np.concatenate([arms[..., :3], vector, arms[..., 9:]], axis=-1))


def _arms(actions: Floats, width: int) -> Floats:
    if actions.ndim == 0 or actions.shape[-1] == 0 or actions.shape[-1] % width:
        raise PcmError(f"actions are {width} numbers for each arm, not {actions.shape}")
    return actions.reshape(*actions.shape[:-1], -1, width)


def _flat(arms: Floats) -> Floats:
    return arms.reshape(*arms.shape[:-2], -1)
