package billing

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestWindowsRefuse(t *testing.T) {
	use := time.Date(2026, 3, 8, 12, 0, 0, 0, time.UTC)
	var ws Windows
	ws.Add(use, 60, time.UTC)
	ends := [spans]time.Time{ws[Daily].End, ws[Weekly].End, ws[Monthly].End}
	later := ends[Daily]
	for _, c := range []struct {
		name        string
		windows     Windows
		limits      Limits
		at          time.Time
		held, least USD
		want        *Refusal
	}{
		{"no limits", ws, Limits{}, use, 1 << 60, 1 << 60, nil},
		{"it fits", ws, Limits{100, 100, 100}, use, 0, 40, nil},
		{"it fits beside what is held", ws, Limits{100, 100, 100}, use, 30, 10, nil},
		{"nothing asked", ws, Limits{1, 1, 1}, use, 1000, 0, nil},
		{"less than nothing", ws, Limits{1, 1, 1}, use, 1000, -5, nil},
		{"the day", ws, Limits{100, 101, 101}, use, 0, 41,
			&Refusal{Span: Daily, Limit: 100, Left: 40, Until: ends[Daily]}},
		{"the week", ws, Limits{101, 100, 101}, use, 0, 41,
			&Refusal{Span: Weekly, Limit: 100, Left: 40, Until: ends[Weekly]}},
		{"the month", ws, Limits{0, 0, 100}, use, 0, 41,
			&Refusal{Span: Monthly, Limit: 100, Left: 40, Until: ends[Monthly]}},
		{"used beyond the limit", ws, Limits{50, 0, 0}, use, 0, 1,
			&Refusal{Span: Daily, Limit: 50, Left: -10, Until: ends[Daily]}},
		{"what is held", ws, Limits{100, 0, 0}, use, 31, 10,
			&Refusal{Span: Daily, Limit: 100, Left: 40, Until: ends[Daily], Temporary: true}},
		{"the last to end", ws, Limits{61, 61, 61}, use, 0, 2,
			&Refusal{Span: Monthly, Limit: 61, Left: 1, Until: ends[Monthly]}},
		{"the last to end of those that refuse", ws, Limits{61, 61, 100}, use, 0, 2,
			&Refusal{Span: Weekly, Limit: 61, Left: 1, Until: ends[Weekly]}},
		{"the last to end of those that others hold", ws, Limits{100, 100, 1000}, use, 40, 2,
			&Refusal{Span: Weekly, Limit: 100, Left: 40, Until: ends[Weekly], Temporary: true}},
		{"used up before held, though it ends first", ws, Limits{61, 100, 100}, use, 40, 2,
			&Refusal{Span: Daily, Limit: 61, Left: 1, Until: ends[Daily]}},
		{"used up before held, and it ends last", ws, Limits{100, 100, 61}, use, 40, 2,
			&Refusal{Span: Monthly, Limit: 61, Left: 1, Until: ends[Monthly]}},
		{"a day that has ended", ws, Limits{61, 0, 0}, later, 0, 61, nil},
		{"a day just before its end", ws, Limits{61, 0, 0}, later.Add(-1), 0, 61,
			&Refusal{Span: Daily, Limit: 61, Left: 1, Until: ends[Daily]}},
		{"more than a day's limit, the day not begun", ws, Limits{61, 0, 0}, later, 0, 62,
			&Refusal{Span: Daily, Limit: 61, Left: 61}},
		{"a day not begun, and held", ws, Limits{61, 0, 0}, later, 61, 1,
			&Refusal{Span: Daily, Limit: 61, Left: 61, Temporary: true}},
		{"a day not begun, and a week", ws, Limits{61, 61, 0}, later, 0, 62,
			&Refusal{Span: Weekly, Limit: 61, Left: 1, Until: ends[Weekly]}},
		{"nothing used at all", Windows{}, Limits{10, 10, 10}, use, 0, 10, nil},
		{"nothing used, and too much", Windows{}, Limits{20, 10, 10}, use, 0, 11,
			&Refusal{Span: Monthly, Limit: 10, Left: 10}},
		{"no difference wraps around", Windows{}, Limits{1, 0, 0}, use, 1<<63 - 1, 1<<63 - 1,
			&Refusal{Span: Daily, Limit: 1, Left: 1}},
		{"at the ends of what fits", Windows{}, Limits{1<<63 - 1, 0, 0}, use, 1<<63 - 1, 1<<63 - 1,
			&Refusal{Span: Daily, Limit: 1<<63 - 1, Left: 1<<63 - 1, Temporary: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, reason := range []Reason{ReasonWindow, ReasonKeyLimit} {
				before := c.windows
				got := c.windows.Refuse(reason, c.limits, c.at, c.held, c.least)
				if c.want != nil {
					c.want.Reason = reason
				}
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Errorf("%s (-want +got):\n%s", reason, diff)
				}
				if c.windows != before {
					t.Errorf("the windows were changed to %+v", c.windows)
				}
			}
		})
	}
}

// TestWindowsRefuseWhatSurpassesALimit compares Refuse with its definition.
func TestWindowsRefuseWhatSurpassesALimit(t *testing.T) {
	amount := rapid.Int64Range(0, 100)
	rapid.Check(t, func(t *rapid.T) {
		now := time.Date(2026, 3, 8, 12, 0, 0, 0, time.UTC)
		var ws Windows
		for range rapid.IntRange(0, 5).Draw(t, "uses") {
			ws.Add(now, USD(amount.Draw(t, "used")), time.UTC)
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(200*time.Hour)).Draw(t, "later")))
		}
		held, least := USD(amount.Draw(t, "held")), USD(amount.Draw(t, "least"))
		var limits Limits
		fits, fitsAlone := true, true
		for s := range limits {
			limits[s] = USD(amount.Draw(t, "limit")) * 3
			used := ws[s].Used
			if !now.Before(ws[s].End) {
				used = 0
			}
			fits = fits && (limits[s] == 0 || least == 0 || used+held+least <= limits[s])
			fitsAlone = fitsAlone && (limits[s] == 0 || least == 0 || used+least <= limits[s])
		}
		r := ws.Refuse(ReasonWindow, limits, now, held, least)
		switch {
		case fits != (r == nil):
			t.Fatalf("%+v, want one: %v", r, !fits)
		case r == nil:
		case r.Temporary != fitsAlone, r.Limit != limits[r.Span], r.Left != r.Limit-ws.At(now)[r.Span].Used, r.Until != ws.At(now)[r.Span].End:
			t.Fatalf("%+v of %+v", r, ws)
		}
	})
}

func TestRefusalSaysWhatDoesNotSuffice(t *testing.T) {
	until := time.Date(2026, 3, 9, 1, 0, 0, 0, time.FixedZone("elsewhere", 3600))
	for _, c := range []struct {
		refusal Refusal
		parts   []string
	}{
		{Refusal{Reason: ReasonBalance, Left: 1_500_000_000}, []string{"balance", "1.500000000"}},
		{Refusal{Reason: ReasonSubscription}, []string{"no subscription"}},
		{Refusal{Reason: ReasonExpired, Until: until}, []string{"subscription", "expired", "2026-03-09T00:00:00Z"}},
		{Refusal{Reason: ReasonWindow, Span: Weekly, Limit: 5_000_000_000, Left: 1}, []string{"weekly window", "5.000000000", "0.000000001"}},
		{Refusal{Reason: ReasonKeyLimit, Span: Monthly, Limit: 5_000_000_000}, []string{"monthly key limit", "5.000000000", "0.000000000"}},
	} {
		for _, part := range c.parts {
			if text := c.refusal.Error(); !strings.Contains(text, part) {
				t.Errorf("%q does not say %q", text, part)
			}
		}
	}
}
