"""Why adversarial examples transfer: interactions inside perturbations, their closed forms, and the attacks that lower them."""

from irlib import local, sampled
from irlib.attacks import Attack, Run, create_attack, list_attacks
from irlib.data import load_images
from irlib.game import AttackGame, Game
from irlib.interactions import interaction_matrix, mean_interaction, total_interaction
from irlib.loss import interaction_loss
from irlib.models import list_models, load_model
from irlib.precision import precision_error
from irlib.quadratic import Quadratic
from irlib.shapley import shapley_values
from irlib.transfer import leave_one_out, transfer_success, transfer_utility

__version__ = "0.1.0"

__all__ = [
    "Attack",
    "AttackGame",
    "Game",
    "Quadratic",
    "Run",
    "create_attack",
    "interaction_loss",
    "interaction_matrix",
    "leave_one_out",
    "list_attacks",
    "list_models",
    "load_images",
    "load_model",
    "local",
    "mean_interaction",
    "precision_error",
    "sampled",
    "shapley_values",
    "total_interaction",
    "transfer_success",
    "transfer_utility",
]
