"""Train the network in a few seconds: ``python train.py --output DIR`` writes ``DIR/digits.pt``."""

import argparse
import sys
from pathlib import Path

import torch
from digits_data import load_split
from model import DigitsNet
from torch import nn

EPOCHS = 25
BATCH_SIZE = 32
LEARNING_RATE = 2e-3
LEAST_ACCURACY = 0.95


def train(images, labels):
    """A trained network, the same one at every run."""
    torch.manual_seed(0)
    network = DigitsNet()
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    loss_function = nn.CrossEntropyLoss()
    for epoch in range(1, EPOCHS + 1):
        total_loss = 0.0
        for batch in torch.randperm(len(images)).split(BATCH_SIZE):
            optimizer.zero_grad()
            loss = loss_function(network(images[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            total_loss += loss.item() * len(batch)
        if epoch % 5 == 0:
            print(f"epoch {epoch:2d}/{EPOCHS}  loss {total_loss / len(images):.4f}", flush=True)
    return network


def accuracy(network, images, labels):
    """Share of the images whose digit is recognised."""
    with torch.inference_mode():
        return (network(images).argmax(dim=1) == labels).float().mean().item()


def as_tensor(images):
    """What the network takes, made the way the handler makes it."""
    return torch.as_tensor(images, dtype=torch.float32).unsqueeze(1) / 16


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder for digits.pt")
    arguments = parser.parse_args()

    torch.set_num_threads(1)  # for such a small network more threads are slower
    train_images, test_images, train_labels, test_labels = load_split()
    network = train(as_tensor(train_images), torch.as_tensor(train_labels))

    test_accuracy = accuracy(network, as_tensor(test_images), torch.as_tensor(test_labels))
    print(f"test accuracy {test_accuracy:.1%} on {len(test_images)} images")
    if test_accuracy < LEAST_ACCURACY:
        sys.exit(f"expected at least {LEAST_ACCURACY:.0%}: nothing written")

    arguments.output.mkdir(parents=True, exist_ok=True)
    weights = arguments.output / "digits.pt"
    torch.save(network.state_dict(), weights)
    print(f"wrote {weights}")


if __name__ == "__main__":
    main()
