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
    """Print the shares of slots by cohort and pool, of the log's policy and of the new one, and the rewards."""
    pools = list(verdict.recorded_shares)
    grid = table.Table(
        "cohort", "feeds", *(f"{pool} %" for pool in pools), "reward", box=box.SIMPLE_HEAD, show_edge=False
    )
    rows: list[Cohort | Verdict] = [*verdict.cohorts] if len(verdict.cohorts) > 1 else []
    for row in (*rows, verdict):
        name = (row.cohort or NAMELESS) if isinstance(row, Cohort) else "all feeds"
        shares = [
            f"{before * 100.0:.1f} → {row.asked_shares[pool] * 100.0:.1f}"
            for pool, before in row.recorded_shares.items()
        ]
        reward = "?" if verdict.refused else f"{row.reward.recorded.mean:.4g} → {row.reward.asked.mean:.4g}"
        cells = (name, f"{row.support.feeds:,}", *shares, reward)
        grid.add_row(*(Text(cell) for cell in cells), style="bold" if isinstance(row, Verdict) else None)
    console.print(grid)


def told_rewards(verdict: Verdict) -> list[str]:
    """What the new policy is worth, and to whom it is worth least."""
    lines = [
        f"reward per feed: {interval(verdict.reward.recorded)} → {interval(verdict.reward.asked)}",
        f"difference: {told_difference(verdict.reward)}: {conclusion(verdict.reward)}",
    ]
    worst = next((cohort for cohort in verdict.cohorts if cohort.cohort == verdict.worst), None)
    if worst is not None and len(verdict.cohorts) > 1:
        lines.append(f"worst hit: {worst.cohort or NAMELESS}, {told_difference(worst.reward)}")
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
    return (
        f"rests on {support.feeds:,} feeds of {support.users:,} users, {verdict.explored:,} mixed at random; "
        f"effective {support.effective_feeds:,.0f} feeds, {support.effective_users:,.0f} users; weights mean "
        f"{support.weight_mean:.3f}, max {support.weight_max:.1f}; not in the log {support.beyond:.1%}{left_out}"
    )
