package ledgertest

import (
	"testing"
	"time"
)

func TestClock(t *testing.T) {
	for _, start := range []time.Time{epoch, time.Date(1970, 1, 1, 0, 0, 0, 1, time.UTC), time.Date(2150, 12, 31, 0, 0, 0, 999999999, time.UTC)} {
		c := NewClock(start)
		first := c.Now()
		if !first.Equal(start) || first.Location() != time.UTC {
			t.Errorf("it shows %v, want %v", first, start)
		}
		c.Pass(t, time.Minute)
		c.Jump(t, -40*24*time.Hour)
		c.Pass(t, time.Second)
		then := c.Now()
		if got := then.Sub(first); got != time.Minute+time.Second {
			t.Errorf("%v have passed, want 1m1s", got)
		}
		want := start.Add(time.Minute+time.Second).AddDate(0, 0, -40)
		if got := then.Round(0); !got.Equal(want) {
			t.Errorf("it shows %v, want %v", got, want)
		}
		var followed []time.Time
		c.Follow(func(now time.Time) { followed = append(followed, now) })
		c.PassUntil(t, want.Add(time.Hour))
		if len(followed) != 2 || !followed[0].Equal(want) || !followed[1].Equal(want.Add(time.Hour)) {
			t.Errorf("its followers saw %v", followed)
		}
	}
}
