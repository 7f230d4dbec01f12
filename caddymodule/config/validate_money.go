package config

import (
	"fmt"
	"slices"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

// checkPrice lets a group have one of rate_multiplier and limits. With limits a
// multiplier would do nothing, whatever it is: subscribers pay with what their
// limits leave, which counts list prices.
func (g *Group) checkPrice(at position) error {
	if g.RateMultiplier == nil || g.Limits == nil {
		return nil
	}
	return at.errorf("rate_multiplier", "stands beside limits, where nobody pays by it: limits count list prices, and the balance does not pay; leave out one of the two")
}

// check checks what a subscription allows; nil is no limits.
func (l *Limits) check(at position) error {
	if l == nil {
		return nil
	}
	at = at.in("limits")
	if l.Daily == "" && l.Weekly == "" && l.Monthly == "" {
		return at.errorf("", "holds none; write one of daily, weekly and monthly, or leave the block out")
	}
	return checkOptions(at, l.options())
}

// limit is an amount over 0.
func limit(to *Dollars) kind {
	return kind{word: oneText(to, "<dollars>"), check: func(at position, name string) error {
		if *to == "" {
			return nil
		}
		amount, err := billing.ParseUSD(string(*to))
		if err != nil || amount <= 0 || amount > MaxBalance {
			return at.errorf(name, "%.80q is not a limit; write US dollars over 0, up to a billion, such as 20 or 0.50", string(*to))
		}
		return nil
	}}
}

// balance is an opening balance.
func balance(to *Dollars) kind {
	return kind{
		word:  oneText(to, "<dollars>|unlimited"),
		fill:  func(standard string) { fill(to, Dollars(standard)) },
		check: func(at position, name string) error { return at.balance(name, *to) },
	}
}

// amounts are the limits of a config that was checked.
func (l *Limits) amounts() billing.Limits {
	var out billing.Limits
	for span, value := range map[billing.Span]Dollars{billing.Daily: l.Daily, billing.Weekly: l.Weekly, billing.Monthly: l.Monthly} {
		if value != "" {
			out[span], _ = billing.ParseUSD(string(value)) // checked
		}
	}
	return out
}

// checkSubscriptions checks the groups that a user is subscribed to.
func (h *Config) checkSubscriptions(u *User, at position) error {
	var seen []string
	for i, s := range u.Subscriptions {
		word := fmt.Sprintf("subscribe[%d]", i)
		found := slices.IndexFunc(h.Groups, func(g Group) bool { return g.Name == s.Group })
		switch {
		case found < 0:
			return at.errorf(word, "names %.80q, which is not a group here; there are: %s", s.Group, NameList(h.Groups, func(g Group) string { return g.Name }))
		case h.Groups[found].Limits == nil:
			return at.errorf(word, "group %s has no limits, so there is nothing to subscribe to; add a block such as `limits` with a line `daily 10` to the group", s.Group)
		case slices.Contains(seen, s.Group):
			return at.errorf(word, "names group %s twice; keep one", s.Group)
		}
		if _, err := ParseMoment(s.Until, time.UTC); err != nil {
			return at.errorf(word, "until %w", err)
		}
		seen = append(seen, s.Group)
	}
	return nil
}
