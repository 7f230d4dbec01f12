package memstate_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/scheduler/memstate"
	"github.com/sub2api/caddy-sub2api/scheduler/statetest"
)

func TestState(t *testing.T) {
	statetest.Run(t, statetest.Harness{
		New:    func(*testing.T) scheduler.State { return memstate.New() },
		Bubble: synctest.Test,
		Advance: func(d time.Duration) {
			time.Sleep(d)
			synctest.Wait()
		},
		Settle: synctest.Wait,
	})
}
