package gateway

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestRetentionLooksAtTheClockForAnHour sets a clock at some minutes, by that much, and
// has a look at what was taken for now in each hour: how long before the true time.
func TestRetentionLooksAtTheClockForAnHour(t *testing.T) {
	type setting struct {
		minute int
		by     time.Duration
	}
	const day = 24 * time.Hour
	for _, c := range []struct {
		name   string
		Config []setting
		want   []time.Duration // for the first three hours, by which it is later than it was at each one's begin
	}{
		{"right", nil, []time.Duration{0, 0, 0}},
		{"ahead for 59 minutes", []setting{{30, 40 * day}, {89, -40 * day}}, []time.Duration{0, 29 * time.Minute, 0}},
		{"ahead for 59 minutes, from an hour on", []setting{{60, 400 * day}, {119, -400 * day}}, []time.Duration{0, 59 * time.Minute, 0}},
		{"ahead and back, time and again", []setting{{10, day}, {20, -day}, {70, 40 * day}, {80, -40 * day}}, []time.Duration{0, 0, 0}},
		{"ahead at the start", []setting{{0, 40 * day}, {30, -40 * day}}, []time.Duration{30 * time.Minute, 0, 0}},
		{"ahead for good", []setting{{30, 40 * day}}, []time.Duration{0, 40 * day, 40 * day}},
		{"back for a minute", []setting{{30, -day}, {31, day}}, []time.Duration{-day + 30*time.Minute, 0, 0}},
		{"back for good", []setting{{90, -400 * day}}, []time.Duration{0, -400*day + 30*time.Minute, -400 * day}},
		{"a minute ahead", []setting{{30, time.Minute}}, []time.Duration{0, time.Minute, time.Minute}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				now := func() time.Time {
					shows := time.Now()
					for _, s := range c.Config {
						if time.Since(began) >= time.Duration(s.minute)*time.Minute {
							shows = shows.Add(s.by)
						}
					}
					return shows
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				called := make(chan time.Time, 10)
				go eachHour(ctx, now, func(_ context.Context, earliest time.Time) { called <- earliest })
				time.Sleep(time.Hour - 1)
				synctest.Wait()
				if len(called) != 0 {
					t.Errorf("something is deleted in the first hour")
				}
				time.Sleep(2*time.Hour + 1)
				synctest.Wait()
				var got []time.Duration
				for len(called) > 0 {
					got = append(got, (<-called).Sub(began.Add(time.Duration(len(got))*time.Hour)))
				}
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Errorf("later than it was (-want +got):\n%s", diff)
				}
			})
		})
	}
}
