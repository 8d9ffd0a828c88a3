import itertools
import subprocess
import sys
from collections import Counter

import pytest

from rollout.errors import InvariantError
from rollout.flow.schedule import first_role, prompt_at
from rollout.model.prompts import PromptSet
from rollout.model.roles import Role


def prompt_set(count: int) -> PromptSet:
    prompts = [
        {"id": f"p{number}", "text": f"text {number}", "seed": number, "steps": 4, "size": "64x64"}
        for number in range(count)
    ]
    return PromptSet.model_validate({"schema": "rollout.prompts/v1", "prompts": prompts})


@pytest.mark.parametrize("count", [1, 2, 7, 20])
def test_every_prompt_comes_once_in_each_cycle(count):
    prompts = prompt_set(count)
    ids = [prompt_at(prompts, run_id="r", stage="canary", number=number).id for number in range(5 * count)]
    for start in range(0, len(ids), count):
        assert sorted(ids[start : start + count]) == sorted(one.id for one in prompts.prompts)


def test_cycles_runs_and_stages_have_orders_of_their_own():
    prompts = prompt_set(20)

    def order(run_id: str, stage: str, cycle: int) -> tuple[str, ...]:
        numbers = range(20 * cycle, 20 * cycle + 20)
        return tuple(prompt_at(prompts, run_id=run_id, stage=stage, number=number).id for number in numbers)

    orders = {order("a", "canary", 0), order("a", "canary", 1), order("b", "canary", 0), order("a", "soak", 0)}
    assert len(orders) == 4
    assert tuple(one.id for one in prompts.prompts) not in orders


def test_every_order_of_a_small_set_is_equally_likely():
    prompts = prompt_set(3)
    orders = Counter(
        tuple(prompt_at(prompts, run_id=f"run-{run}", stage="canary", number=number).id for number in range(3))
        for run in range(1200)
    )
    assert len(orders) == 6
    # 200 expected; 45 is 3.5 standard deviations.
    assert all(abs(count - 200) < 45 for count in orders.values())


def test_names_that_run_together_do_not_collide():
    prompts = prompt_set(20)
    one = [prompt_at(prompts, run_id="a1", stage="2", number=number).id for number in range(20)]
    other = [prompt_at(prompts, run_id="a", stage="12", number=number).id for number in range(20)]
    assert one != other


def test_each_role_is_first_half_of_the_time():
    first = Counter(first_role(run_id="run-1", stage="canary", number=number) for number in range(2000))
    assert abs(first[Role.INCUMBENT] - 1000) < 100


def test_who_is_first_tells_nothing_about_the_next_pair():
    roles = [first_role(run_id="run-1", stage="canary", number=number) for number in range(2001)]
    repeats = sum(a is b for a, b in itertools.pairwise(roles))
    assert abs(repeats - 1000) < 100


def test_who_is_first_does_not_hang_on_the_prompt():
    prompts = prompt_set(4)
    first = Counter(
        prompt_at(prompts, run_id="r", stage="canary", number=number).id
        for number in range(2000)
        if first_role(run_id="r", stage="canary", number=number) is Role.INCUMBENT
    )
    assert all(abs(count - 250) < 60 for count in first.values())


def test_another_process_draws_the_same():
    code = (
        "from rollout.flow.schedule import first_role\n"
        "print(''.join(first_role(run_id='r', stage='s', number=n).value[0] for n in range(40)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = "".join(first_role(run_id="r", stage="s", number=number).value[0] for number in range(40))
    assert result.stdout.strip() == here


def test_the_draws_of_this_version_are_those_of_stored_journals():
    prompts = prompt_set(5)
    ids = [prompt_at(prompts, run_id="run-1", stage="canary", number=number).id for number in range(5)]
    roles = "".join(first_role(run_id="run-1", stage="canary", number=number).value[0] for number in range(10))
    assert (ids, roles) == (["p1", "p3", "p4", "p2", "p0"], "ciiiccccii")


def test_a_negative_position_is_a_bug():
    with pytest.raises(InvariantError):
        prompt_at(prompt_set(2), run_id="r", stage="s", number=-1)
    with pytest.raises(InvariantError):
        first_role(run_id="r", stage="s", number=-1)
