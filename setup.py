"""Packages of the wheel: neo_lightning with its tables and template, and the top-level recipes/ and data_manifests/."""

from setuptools import find_packages, setup

DATA = {"neo_lightning.recipes": "recipes", "neo_lightning.data_manifests": "data_manifests"}

setup(
    packages=[*find_packages(include=["neo_lightning", "neo_lightning.*"]), *DATA],
    package_dir=DATA,
    package_data={
        **{package: ["**/*.yaml"] for package in DATA},
        "neo_lightning.evaluation": ["*.json"],
        "neo_lightning.hf": ["*.jinja"],
        "neo_lightning.serving": ["*.html"],
    },
)
