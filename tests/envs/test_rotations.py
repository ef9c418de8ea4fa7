import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pcm_policy.envs.rotations import (
    axis_angle_to_matrix,
    matrix_to_axis_angle,
    matrix_to_sixd,
    sixd_to_matrix,
    to_control,
    to_learned,
)
from pcm_policy.errors import PcmError


@pytest.fixture
def rotations() -> Rotation:
    """Random ones, tiny ones, and ones on both sides of and at half a turn."""
    random = np.random.default_rng(0)
    axes = random.normal(size=(300, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    angles = random.uniform(0, np.pi, 300)
    angles[:100] = np.pi - np.geomspace(1e-12, 1e-2, 100)
    angles[100:150] = np.geomspace(1e-12, 1e-3, 50)
    angles[150:160], angles[160:170] = 0.0, np.pi
    return Rotation.from_rotvec(axes * angles[:, None])


def test_matrices_are_those_of_scipy(rotations: Rotation) -> None:
    found = axis_angle_to_matrix(rotations.as_rotvec())
    np.testing.assert_allclose(found, rotations.as_matrix(), atol=1e-14)


def test_axis_angles_are_those_of_scipy(rotations: Rotation) -> None:
    found = matrix_to_axis_angle(rotations.as_matrix())
    np.testing.assert_allclose(
        Rotation.from_rotvec(found).as_matrix(), rotations.as_matrix(), atol=1e-13
    )
    plain = rotations.magnitude() < np.pi - 1e-6  # beyond, the axis may be the other one
    np.testing.assert_allclose(found[plain], rotations.as_rotvec()[plain], atol=1e-9)
    assert np.linalg.norm(found, axis=1).max() <= np.pi + 1e-12


def test_the_sixd_form_is_two_rows_and_comes_back(rotations: Rotation) -> None:
    matrices = rotations.as_matrix()
    sixd = matrix_to_sixd(matrices)
    np.testing.assert_array_equal(sixd[:, :3], matrices[:, 0])
    np.testing.assert_array_equal(sixd[:, 3:], matrices[:, 1])
    np.testing.assert_allclose(sixd_to_matrix(sixd), matrices, atol=1e-14)


def test_any_six_numbers_give_a_rotation() -> None:
    matrices = sixd_to_matrix(np.random.default_rng(1).normal(size=(50, 2, 6)) * 3)
    identity = np.broadcast_to(np.eye(3), matrices.shape)
    np.testing.assert_allclose(matrices @ matrices.swapaxes(-1, -2), identity, atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(matrices), 1.0, atol=1e-12)


@pytest.mark.parametrize("arms", [1, 2])
def test_actions_come_back(rotations: Rotation, arms: int) -> None:
    random = np.random.default_rng(2)
    parts = np.concatenate(
        [random.normal(size=(300, 3)), rotations.as_rotvec(), random.choice([-1.0, 1.0], (300, 1))],
        axis=1,
    )
    control = parts.reshape(-1, 7 * arms)
    learned = to_learned(control)
    assert learned.shape == (len(control), 10 * arms)
    if arms == 2:  # each arm as by itself
        np.testing.assert_array_equal(learned[:, 10:], to_learned(control[:, 7:]))
    back = to_control(learned).reshape(-1, 7)
    np.testing.assert_array_equal(back[:, [0, 1, 2, 6]], parts[:, [0, 1, 2, 6]])
    np.testing.assert_allclose(
        Rotation.from_rotvec(back[:, 3:6]).as_matrix(), rotations.as_matrix(), atol=1e-13
    )


def test_other_widths_are_refused() -> None:
    with pytest.raises(PcmError, match="7 numbers for each arm"):
        to_learned(np.zeros((2, 10)))
    with pytest.raises(PcmError, match="10 numbers for each arm"):
        to_control(np.zeros(7))
