"""The network. TorchServe imports this file too, and expects exactly one class in it."""

from torch import nn


class DigitsNet(nn.Module):
    """Batches of 1x8x8 images with pixels from 0 to 1 in; a score for each of the ten digits out."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * 4 * 4, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )

    def forward(self, images):
        return self.layers(images)
