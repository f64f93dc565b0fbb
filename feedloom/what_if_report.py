"""Shows a what-if to the person on duty: shares, reward, the worst-hit cohort, and what that rests on."""

from rich import box, table
from rich.console import Console
from rich.text import Text

from engine.offline.off_policy import Estimate, Support
from engine.offline.verdict import Cohort, Reward, Verdict

NAMELESS = "(all others)"  # users whom no cohort names


def print_verdict(verdict: Verdict, notes: list[str], console: Console) -> None:
    """Print it; of a log that says nothing, the shares only and why."""
    print_shares(verdict, console)
    lines = [f"refused: {verdict.refused}"] if verdict.refused else told_rewards(verdict)
    lines.append(told_support(verdict))
    for line in (*lines, *(f"note: {note}" for note in notes)):
        console.print(Text(line), soft_wrap=True)


def print_shares(verdict: Verdict, console: Console) -> None:
    """Print by cohort each pool's part of the slots, and the reward: of the log's policy, and of the new one."""
    grid = table.Table("cohort", "feeds", "", "log", "new", "shift", box=box.SIMPLE_HEAD, show_edge=False)
    blocks: list[Cohort | Verdict] = [verdict, *(verdict.cohorts if len(verdict.cohorts) > 1 else ())]
    for block in blocks:
        name = (block.cohort or NAMELESS) if isinstance(block, Cohort) else "all feeds"
        rows = [
            (pool, f"{before:.1%}", f"{block.asked_shares[pool]:.1%}", f"{block.asked_shares[pool] - before:+.1%}")
            for pool, before in block.recorded_shares.items()
        ]
        if not verdict.refused:
            reward = block.reward
            means = f"{reward.recorded.mean:.4g}", f"{reward.asked.mean:.4g}", f"{reward.difference.mean:+.4g}"
            rows.append(("reward per feed", *means))
        for number, row in enumerate(rows):
            head = (name, f"{block.support.feeds:,}") if number == 0 else ("", "")
            grid.add_row(*(Text(cell) for cell in (*head, *row)), end_section=number == len(rows) - 1)
    console.print(grid)


def told_rewards(verdict: Verdict) -> list[str]:
    """What the new policy is worth, and to whom it is worth least."""
    lines = [
        f"reward per feed: {interval(verdict.reward.recorded)} → {interval(verdict.reward.asked)}",
        f"difference: {told_difference(verdict.reward)}: {conclusion(verdict.reward)}",
    ]
    worst = next((cohort for cohort in verdict.cohorts if cohort.cohort == verdict.worst), None)
    if worst is not None and len(verdict.cohorts) > 1:
        what = "worst hit" if (worst.reward.relative or 0.0) < 0.0 else "nobody loses, least to win"
        lines.append(f"{what}: {worst.cohort or NAMELESS}, {told_difference(worst.reward)}")
    return lines


def told_difference(reward: Reward) -> str:
    """A difference with its interval, and as a part."""
    relative = "" if reward.relative is None else f" ({reward.relative:+.1%})"
    return f"{interval(reward.difference, '+')}{relative}"


def conclusion(reward: Reward) -> str:
    """Better, worse, the same, or not known."""
    low, high = reward.difference.low, reward.difference.high
    if low is None or high is None:
        return "one user alone says nothing of others"
    if low == high == 0.0:
        return "no difference at all"
    if low > 0.0:
        return "better"
    return "worse" if high < 0.0 else "the log cannot tell which is better"


def interval(estimate: Estimate, sign: str = "") -> str:
    """An estimate with its 95 % interval."""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.mean:{sign}.4g}"
    return f"{estimate.mean:{sign}.4g} [{estimate.low:{sign}.4g}, {estimate.high:{sign}.4g}]"


def told_support(verdict: Verdict) -> str:
    """What the estimate rests on."""
    support: Support = verdict.support
    left_out = f"; {verdict.later_pages:,} later pages left out" if verdict.later_pages else ""
    if verdict.unknown:
        reasons = ", ".join(f"{count:,} as {reason}" for reason, count in verdict.reasons.items())
        left_out += f"; {verdict.unknown:,} feeds left out: {reasons}"
    return (
        f"rests on {support.feeds:,} feeds of {support.users:,} users, {verdict.explored:,} mixed at random; "
        f"effective {support.effective_feeds:,.0f} feeds, {support.effective_users:,.0f} users; weights mean "
        f"{support.weight_mean:.3f}, max {support.weight_max:.1f}; not in the log {support.beyond:.1%}{left_out}"
    )
