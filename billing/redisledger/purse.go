package redisledger

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

// purseName is a purse's key, less the namespace: that of a user, for his balance,
// of a key, or of a subscription.
type purseName string

func userPurse(name string) purseName { return purseName("user:" + name) }
func keyPurse(id string) purseName    { return purseName("key:" + id) }

// subscriptionPurse has a length in it, so that any text is a name.
func subscriptionPurse(user, group string) purseName {
	return purseName("subscription:" + strconv.Itoa(len(user)) + ":" + user + ":" + group)
}

// field is one that the purse has as long as there is such a user or key.
func (p purseName) field() string {
	switch kind, _, _ := strings.Cut(string(p), ":"); kind {
	case "user":
		return "balance"
	case "key":
		return "user"
	}
	return "" // of one that a config declares, nothing else may be known
}

// possiblePurses are those on which a claim may set something aside.
func possiblePurses(c *billing.Claim) []purseName {
	first := userPurse(c.User)
	if c.Terms != nil {
		first = subscriptionPurse(c.User, c.Terms.Group)
	}
	return []purseName{first, keyPurse(c.KeyID)}
}

// purses are those on which the claim sets something aside.
func (s *standing) purses(c *billing.Claim, payer string) []purseName {
	possible := possiblePurses(c)
	var purses []purseName
	if payer != billing.PaidByNobody {
		purses = append(purses, possible[0])
	}
	if s.key != nil {
		purses = append(purses, possible[1])
	}
	return purses
}

// spans are the names of windows in Redis.
var spans = [len(billing.Windows{})]string{"daily", "weekly", "monthly"}

// subscriptionFields are those that parseSubscription reads.
var subscriptionFields = []string{
	"subscribed", "until", "held", "daily", "weekly", "monthly", "daily_used", "weekly_used", "monthly_used",
}

// formatBounds is a window's begin and end, in seconds since 1970.
func formatBounds(w billing.Window) string {
	return strconv.FormatInt(w.Start.Unix(), 10) + " " + strconv.FormatInt(w.End.Unix(), 10)
}

// parsePurse reads what is set aside, the bounds of the windows, and what is used.
func parsePurse(fields []any) (p purse, err error) {
	if len(fields) != 1+2*len(spans) {
		return p, fmt.Errorf("an unknown answer of Redis for windows: %v", fields)
	}
	held, err := parseInteger(fields[0])
	p.held = billing.USD(held)
	for i := range spans {
		text, _ := fields[1+i].(string)
		if err != nil || text == "" {
			continue
		}
		var start, end, used int64
		if _, err = fmt.Sscanf(text, "%d %d", &start, &end); err != nil {
			return p, fmt.Errorf("a window in Redis is %q: %w", text, err)
		}
		used, err = parseInteger(fields[1+len(spans)+i])
		p.windows[i] = billing.Window{Start: time.Unix(start, 0).UTC(), End: time.Unix(end, 0).UTC(), Used: billing.USD(used)}
	}
	return p, err
}

// parseSubscription reads whether there is one, its end, and its purse.
func parseSubscription(reply any) (s subscription, err error) {
	fields, _ := reply.([]any)
	if len(fields) < 2 {
		return s, fmt.Errorf("an unknown answer of Redis for a subscription: %v", reply)
	}
	s.subscribed = fields[0] != nil
	if s.until, err = parseTime(fields[1]); err == nil {
		s.purse, err = parsePurse(fields[2:])
	}
	return s, err
}

// parseLimitedKey reads a key's user and limits, and its purse; nil for none.
func parseLimitedKey(reply any) (*limitedKey, error) {
	fields, _ := reply.([]any)
	if len(fields) < 2 || fields[0] == nil {
		return nil, nil
	}
	k := new(limitedKey)
	var err error
	if k.limits, err = parseLimits(fields[1]); err == nil {
		k.purse, err = parsePurse(fields[2:])
	}
	return k, err
}

func formatLimits(limits billing.Limits) string {
	if limits == (billing.Limits{}) {
		return ""
	}
	return fmt.Sprintf("%d %d %d", max(limits[billing.Daily], 0), max(limits[billing.Weekly], 0), max(limits[billing.Monthly], 0))
}

func parseLimits(field any) (limits billing.Limits, err error) {
	text, _ := field.(string)
	if text == "" {
		return limits, nil
	}
	if _, err := fmt.Sscanf(text, "%d %d %d", &limits[0], &limits[1], &limits[2]); err != nil {
		return limits, fmt.Errorf("a key's limits in Redis are %q: %w", text, err)
	}
	return limits, nil
}
