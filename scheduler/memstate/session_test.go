package memstate

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/scheduler"
)

func TestSessionsAreBounded(t *testing.T) {
	s := New()
	defer s.Close()
	s.maxSessions = 10
	for i := range 100 {
		if err := s.Mark(context.Background(), fmt.Sprint("session", i), scheduler.StripThinking, time.Hour); err != nil {
			t.Fatal(err)
		}
		if want := min(i+1, 10); len(s.sessions) != want || len(s.alarms.heap) != want {
			t.Fatalf("%d sessions, %d alarms, want %d", len(s.sessions), len(s.alarms.heap), want)
		}
	}
	if s.sessions["session99"] == nil {
		t.Error("the newest session was forgotten")
	}
}
