"""Which prompt comes when, and who is asked first: random to look at, fixed by run, stage and number.

Every draw is a digest of its coordinates, so a resumed run and another version of Python draw the same.
"""

from rollout.errors import InvariantError
from rollout.model.canonical import digest_json
from rollout.model.prompts import Prompt, PromptSet
from rollout.model.roles import Role


def prompt_at(prompts: PromptSet, *, run_id: str, stage: str, number: int) -> Prompt:
    """Return the prompt of one pair or request: the set in shuffled cycles, shuffled anew for each cycle.

    Args:
        prompts: The set; each prompt comes once per cycle of `len(prompts.prompts)` numbers.
        run_id: Another run has another order.
        stage: Another stage has another order.
        number: Position in the stage, from 0.

    Raises:
        InvariantError: The number is negative.
    """
    _check_number(number)
    cycle, place = divmod(number, len(prompts.prompts))
    # Sorting by digests of distinct coordinates gives each order of the set the same chance.
    order = sorted(prompts.prompts, key=lambda one: digest_json(["prompt", run_id, stage, cycle, one.id]))
    return order[place]


def first_role(*, run_id: str, stage: str, number: int) -> Role:
    """Return who is asked first in one pair: a fair coin, independent of all other pairs and of the prompts.

    The coin is not balanced over neighbours on purpose: the sequential tests look after every pair, and what being
    second costs must average out in each pair, whatever came before.

    Raises:
        InvariantError: The number is negative.
    """
    _check_number(number)
    coin = int(digest_json(["first", run_id, stage, number])[-1], 16) % 2
    return Role.INCUMBENT if coin == 0 else Role.CANDIDATE


def _check_number(number: int) -> None:
    if number < 0:
        raise InvariantError(f"positions in a stage count from 0, not from {number}")
