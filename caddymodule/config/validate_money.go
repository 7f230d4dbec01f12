package config

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/caddymodule/gateway"
)

// How long records may be kept.
const (
	minRetention = 24 * time.Hour
	maxRetention = 3650 * 24 * time.Hour
)

// checkPrice lets a group have one of rate_multiplier and limits. With limits a
// multiplier would do nothing, whatever it is: subscribers pay with what their
// limits leave, which counts list prices.
func (g *Group) checkPrice(at spot) error {
	if g.RateMultiplier == nil || g.Limits == nil {
		return nil
	}
	return at.errorf("rate_multiplier", "stands beside limits, where nobody pays by it: limits count list prices, and the balance does not pay; leave out one of the two")
}

// check checks what a subscription allows; nil is no limits.
func (l *Limits) check(at spot) error {
	if l == nil {
		return nil
	}
	at = at.in("limits")
	if l.Daily == "" && l.Weekly == "" && l.Monthly == "" {
		return at.errorf("", "holds none; write one of daily, weekly and monthly, or leave the block out")
	}
	return cmp.Or(at.amount("daily", l.Daily), at.amount("weekly", l.Weekly), at.amount("monthly", l.Monthly))
}

// amount checks a limit; "" is none.
func (at spot) amount(word string, value Dollars) error {
	if value == "" {
		return nil
	}
	amount, err := billing.ParseUSD(string(value))
	if err != nil || amount <= 0 || amount > MaxBalance {
		return at.errorf(word, "%.80q is no limit; write US dollars over 0, up to a billion, such as 20 or 0.50", string(value))
	}
	return nil
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
func (h *Config) checkSubscriptions(u *User, at spot) error {
	var seen []string
	for i, s := range u.Subscriptions {
		word := fmt.Sprintf("subscribe[%d]", i)
		found := slices.IndexFunc(h.Groups, func(g Group) bool { return g.Name == s.Group })
		switch {
		case found < 0:
			return at.errorf(word, "names %.80q, which is no group here; there are: %s", s.Group, NameList(h.Groups, func(g Group) string { return g.Name }))
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

func (b *Billing) check() error {
	if b == nil {
		return nil
	}
	at := spot{"billing", "billing"}
	if _, err := placeholders(b.Prices); err != nil {
		return at.errorf("prices", "%w", err)
	}
	if _, err := loadZone(b.Timezone); err != nil {
		return at.errorf("timezone", "%w", err)
	}
	if r := b.Retention; r != nil && *r != 0 && (time.Duration(*r) < minRetention || time.Duration(*r) > maxRetention) {
		return at.errorf("retention", "%s is out of range; write 0, which is for ever, or a duration from 1d to 3650d", time.Duration(*r))
	}
	return cmp.Or(
		at.rate("rate_multiplier", b.RateMultiplier),
		at.oneOf("hold", b.Hold, gateway.HoldOff, gateway.HoldEstimate, gateway.HoldMax),
		at.oneOf("durability", b.Durability, durabilityProcess, durabilityPower),
	)
}
