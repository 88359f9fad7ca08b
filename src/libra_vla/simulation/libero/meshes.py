"""Coarser visual meshes for collecting demonstrations; never for a reported evaluation.

Software rendering is bound by triangles. Vertices are merged on a grid (Rossignac & Borrel 1993)
in the compiled model, just before the renderer uploads it: no files, no cache, and the physics,
which collides other geoms, cannot notice.
"""

from typing import Any

import numpy as np

KEEP = 0.08
"""Share of the faces that is kept, but for..."""
SMALLEST = 2500
"""...the faces that every mesh keeps: below, thin plates and handles get holes."""
LINKS, LINK_FACES = "robot0_link", 1000
"""Bodies of the arm, thick and never handled, and what each of their meshes keeps."""
NORMALS_APART, TEXTURE_APART = 1.0, 0.06
"""Normals, and places in a texture of side 1, that are less far apart belong to one surface."""


def decimate(model: Any) -> float:
    """Merges vertices of the visual meshes of a compiled `mujoco.MjModel`, in place.

    Returns:
        Faces left, as a share of what there was.
    """
    visual = (model.geom_contype == 0) & (model.geom_conaffinity == 0)
    used = {int(i) for i in model.geom_dataid[visual] if i >= 0}
    colliding = {int(i) for i in model.geom_dataid[~visual] if i >= 0}
    before = int(model.mesh_facenum.sum())
    links = {
        int(model.geom_dataid[geom])
        for geom in range(model.ngeom)
        if model.body(model.geom_bodyid[geom]).name.startswith(LINKS)
    }
    for mesh in sorted(used - colliding):
        count = int(model.mesh_facenum[mesh])
        wanted = LINK_FACES if mesh in links else max(SMALLEST, int(KEEP * count))
        if count > 2 * wanted:
            _decimate_mesh(model, mesh, wanted)
    return int(model.mesh_facenum.sum()) / before


def _decimate_mesh(model: Any, mesh: int, wanted: int) -> None:
    start, count = model.mesh_faceadr[mesh], model.mesh_facenum[mesh]
    rows = slice(start, start + count)
    vertices = model.mesh_vert[model.mesh_vertadr[mesh] :][: model.mesh_vertnum[mesh]]
    faces = np.array(model.mesh_face[rows])
    # The number of faces falls with the square of the cell; a few bisections come close enough.
    low, high = 1e-3, 0.5
    kept = np.arange(count)
    merged = faces
    for _ in range(7):
        cell = np.sqrt(low * high)
        merged, kept = _merge(vertices, faces, cell)
        low, high = (cell, high) if len(kept) > wanted else (low, cell)
    left = slice(start, start + len(kept))
    for near, corners, table, address, number in (
        (NORMALS_APART, model.mesh_facenormal, model.mesh_normal, model.mesh_normaladr,
         model.mesh_normalnum),
        (TEXTURE_APART, model.mesh_facetexcoord, model.mesh_texcoord, model.mesh_texcoordadr,
         model.mesh_texcoordnum),
    ):  # fmt: skip
        if number[mesh]:
            values = table[address[mesh] :][: number[mesh]]
            own = np.array(corners[rows])
            corners[left] = _of_vertices(own, values, faces, merged, near)[kept]
    model.mesh_face[left] = merged[kept]
    model.mesh_facenum[mesh] = len(kept)


def _of_vertices(
    own: np.ndarray, values: np.ndarray, faces: np.ndarray, merged: np.ndarray, near: float
) -> np.ndarray:
    """Which of `values` [K, 2 or 3] (normals, or places in the texture) the corners of merged faces
    have, as indices [faces, 3].

    A face whose corners have moved keeps those it had, `own` [faces, 3], only where the vertices
    that they moved to have others altogether, at least `near` apart (the other side of a wall,
    another part of the texture): else it would show a speck of its texture, enlarged.
    """
    at_vertex = np.zeros(faces.max() + 1, dtype=own.dtype)
    at_vertex[faces.ravel()] = own.ravel()
    found = at_vertex[merged]
    apart = np.linalg.norm(values[found] - values[own], axis=-1).max(axis=1, keepdims=True)
    return np.where(apart < near, found, own)


def _merge(vertices: np.ndarray, faces: np.ndarray, cell: float) -> tuple[np.ndarray, np.ndarray]:
    """Moves every vertex to the one nearest its cell's mean; returns faces and which survive."""
    size = np.ptp(vertices, axis=0).max() * cell
    keys = np.floor((vertices - vertices.min(axis=0)) / size).astype(np.int64)
    code = (keys[:, 0] << 40) + (keys[:, 1] << 20) + keys[:, 2]
    _, cluster = np.unique(code, return_inverse=True)
    number = cluster.max() + 1
    mean = np.stack([np.bincount(cluster, vertices[:, i], number) for i in range(3)], axis=1)
    mean /= np.bincount(cluster, minlength=number)[:, None]
    distance = np.linalg.norm(vertices - mean[cluster], axis=1)
    order = np.argsort(-distance)
    representative = np.empty(number, dtype=faces.dtype)
    representative[cluster[order]] = order  # the nearest is written last
    merged = representative[cluster][faces]
    a, b, c = merged.T
    alive = np.flatnonzero((a != b) & (b != c) & (a != c))
    # One face of those with the same corners and the same side out: thin walls have two.
    lowest = merged[alive].argmin(axis=1)[:, None]
    turned = np.take_along_axis(merged[alive], (lowest + np.arange(3)) % 3, axis=1)
    _, first = np.unique(turned, axis=0, return_index=True)
    return merged, alive[np.sort(first)]
