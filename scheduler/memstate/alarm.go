package memstate

import (
	"container/heap"
	"time"
)

// alarm is a time at which its owner is rung, once. The zero alarm is not set.
type alarm struct {
	at    instant
	pos   int // in the heap, from 1; 0 = not set
	owner ringer
}

// ringer is rung with the State locked.
type ringer interface {
	ring(s *State, now instant)
}

func (a *alarm) isSet() bool { return a.pos > 0 }

// alarms are those set, on one timer. The timer never rings late; it may ring
// for an alarm that is gone.
type alarms struct {
	heap  alarmHeap
	timer *time.Timer
	// next is when the timer rings; 0 = it is not running.
	next instant
	wake func()
}

func (as *alarms) set(a *alarm, owner ringer, at, now instant) {
	a.at, a.owner = at, owner
	if a.isSet() {
		heap.Fix(&as.heap, a.pos-1)
	} else {
		heap.Push(&as.heap, a)
	}
	as.arm(now)
}

func (as *alarms) unset(a *alarm) {
	if a.isSet() {
		heap.Remove(&as.heap, a.pos-1)
	}
}

// arm sees to it that the timer rings in time for the first alarm.
func (as *alarms) arm(now instant) {
	if len(as.heap) == 0 {
		return
	}
	at := max(as.heap[0].at, now+1)
	if as.next != 0 && as.next <= at {
		return
	}
	as.next = at
	if as.timer == nil {
		as.timer = time.AfterFunc(time.Duration(at-now), as.wake)
	} else {
		as.timer.Reset(time.Duration(at - now))
	}
}

func (as *alarms) stop() {
	if as.timer != nil {
		as.timer.Stop()
	}
	as.heap = nil
}

// wake rings what is due, some at a time so that nobody waits long for the lock.
func (s *State) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.alarms.next = 0
	now := s.instant(s.now())
	for range 1024 {
		if len(s.alarms.heap) == 0 || s.alarms.heap[0].at > now {
			break
		}
		a := heap.Pop(&s.alarms.heap).(*alarm)
		a.owner.ring(s, now)
	}
	s.alarms.arm(now)
}

// alarmHeap implements heap.Interface.
type alarmHeap []*alarm

func (h alarmHeap) Len() int           { return len(h) }
func (h alarmHeap) Less(i, j int) bool { return h[i].at < h[j].at }

func (h alarmHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].pos, h[j].pos = i+1, j+1
}

func (h *alarmHeap) Push(x any) {
	a := x.(*alarm)
	*h = append(*h, a)
	a.pos = len(*h)
}

func (h *alarmHeap) Pop() any {
	last := len(*h) - 1
	a := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	a.pos = 0
	return a
}
