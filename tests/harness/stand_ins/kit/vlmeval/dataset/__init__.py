"""What VLMEvalKit knows of data sets by their names; of others it guesses."""


def DATASET_TYPE(dataset: str, *, default: str = "MCQ") -> str:
    return "VQA" if "openended" in dataset.lower() else default


def DATASET_MODALITY(dataset: str, *, default: str = "IMAGE") -> str:
    return "VIDEO" if dataset.startswith("Clips") else default
