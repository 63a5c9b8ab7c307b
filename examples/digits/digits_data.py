"""scikit-learn's bundled handwritten digits, split the same way for training and for the client."""


def load_split():
    """Train images, test images, train labels, test labels; an image is 8x8 numbers from 0 (paper) to 16 (ink)."""
    from sklearn.datasets import load_digits  # takes seconds to import: not before it is needed
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    return train_test_split(digits.images, digits.target, test_size=0.2, random_state=0, stratify=digits.target)
