"""Standard detectors and their training: torchvision's, timm's and transformers' networks in one loop."""
