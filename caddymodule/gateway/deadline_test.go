package gateway

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestWatch(t *testing.T) {
	phase := &timeout{what: "no content", option: "first_event_timeout", after: 10 * time.Second}
	idle := &timeout{what: "nothing", option: "idle_timeout", after: 3 * time.Second}
	for _, test := range []struct {
		name        string
		phase, idle *timeout
		alive       time.Duration // a sign of life comes this often; 0 = never
		want        *timeout
		after       time.Duration
	}{
		{"silence", nil, idle, 0, idle, 3 * time.Second},
		{"signs of life", nil, idle, 2 * time.Second, nil, 0},
		{"the phase ends in spite of them", phase, idle, 2 * time.Second, phase, 10 * time.Second},
		{"silence within the phase", phase, idle, 0, idle, 3 * time.Second},
		{"a phase alone", phase, nil, 0, phase, 10 * time.Second},
		{"no limit", nil, nil, 0, nil, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(context.Background())
				defer cancel(nil)
				c := stopwatch{time.Now()}
				w := newDeadline(cancel, c)
				w.begin(test.phase, test.idle)
				for range 60 {
					time.Sleep(time.Second)
					synctest.Wait()
					if ctx.Err() != nil {
						break
					}
					if test.alive > 0 && c.now()%test.alive == 0 {
						w.alive(c.now())
					}
				}
				if test.want == nil {
					if ctx.Err() != nil {
						t.Errorf("ended after %v: %v", c.now(), context.Cause(ctx))
					}
				} else if context.Cause(ctx) != error(test.want) || c.now() != test.after {
					t.Errorf("after %v: %v, want %v after %v", c.now(), context.Cause(ctx), test.want, test.after)
				}
				w.stop()
				w.begin(test.phase, test.idle) // too late: it must not arm a timer
				if w.timer != nil && w.timer.Stop() {
					t.Error("a timer runs after the end")
				}
			})
		})
	}
}
