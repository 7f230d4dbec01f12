package scheduler_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sub2api/caddy-sub2api/scheduler"
)

var (
	noon      = time.Date(2026, 12, 10, 12, 34, 56, 0, time.UTC)
	cooldowns = scheduler.Cooldowns{RateLimit: 5 * time.Minute, Overload: time.Minute}
)

// event is an outcome at a time after noon.
type event struct {
	after   time.Duration
	outcome scheduler.Outcome
}

func repeat(n int, e event) []event {
	var events []event
	for range n {
		events = append(events, e)
	}
	return events
}

func standingAfter(events ...event) *scheduler.Standing {
	var st scheduler.Standing
	for _, e := range events {
		st.Apply(e.outcome, noon.Add(e.after), cooldowns)
	}
	return &st
}

var (
	success     = scheduler.Outcome{Kind: scheduler.Success, Model: "claude-opus-4"}
	forbidden   = scheduler.Outcome{Kind: scheduler.Forbidden, Model: "claude-opus-4"}
	rateLimited = scheduler.Outcome{Kind: scheduler.RateLimited}
	overloaded  = scheduler.Outcome{Kind: scheduler.Overloaded}
	fault       = scheduler.Outcome{Kind: scheduler.ServerFault}
)

func with(o scheduler.Outcome, change func(*scheduler.Outcome)) scheduler.Outcome {
	change(&o)
	return o
}

func window(status string, reset time.Duration) *scheduler.WindowReport {
	w := &scheduler.WindowReport{Status: status, Utilization: 0.5}
	if reset != 0 {
		w.Reset = noon.Add(reset)
	}
	return w
}

const (
	active      = scheduler.StateActive
	limited     = scheduler.StateRateLimited
	overload    = scheduler.StateOverloaded
	inError     = scheduler.StateError
	monthsEnd   = 22*24*time.Hour - (12*time.Hour + 34*time.Minute + 56*time.Second)
	halfMinute  = 30 * time.Second
	aLittle     = time.Second
	cooldown429 = 5 * time.Minute
)

func TestState(t *testing.T) {
	tests := []struct {
		name   string
		events []event
		at     time.Duration // when the state is asked for
		state  string
		until  time.Duration // after noon; 0 = no time
	}{
		{name: "nothing happened", state: active},
		{name: "401", events: []event{{0, scheduler.Outcome{Kind: scheduler.Unauthorized}}}, at: 1000 * time.Hour, state: inError},
		{name: "credit gone", events: []event{{0, scheduler.Outcome{Kind: scheduler.CreditGone}}}, state: inError},
		{name: "a success does not undo an error", events: []event{{0, scheduler.Outcome{Kind: scheduler.Unauthorized}}, {0, success}}, state: inError},
		{name: "two 403", events: repeat(2, event{0, forbidden}), state: active},
		{name: "three 403", events: repeat(3, event{0, forbidden}), state: inError},
		{name: "three 403 with a success between", events: []event{{0, forbidden}, {0, forbidden}, {0, success}, {0, forbidden}}, state: active},
		{name: "429 with reset", events: []event{{0, with(rateLimited, func(o *scheduler.Outcome) { o.Reset = noon.Add(time.Hour); o.RetryAfter = aLittle })}}, state: limited, until: time.Hour},
		{name: "429 with retry-after", events: []event{{0, with(rateLimited, func(o *scheduler.Outcome) { o.RetryAfter = time.Minute })}}, state: limited, until: time.Minute},
		{name: "429 with a reset in the past", events: []event{{0, with(rateLimited, func(o *scheduler.Outcome) { o.Reset = noon.Add(-time.Hour); o.RetryAfter = time.Minute })}}, state: limited, until: time.Minute},
		{name: "429 with neither", events: []event{{0, rateLimited}}, state: limited, until: cooldown429},
		{name: "429 with a reset beyond reason", events: []event{{0, with(rateLimited, func(o *scheduler.Outcome) { o.Reset = noon.AddDate(50000, 0, 0) })}}, state: limited, until: 31 * 24 * time.Hour},
		{name: "429 over", events: []event{{0, rateLimited}}, at: cooldown429, state: active},
		{name: "a later 429 lengthens", events: []event{{0, rateLimited}, {time.Minute, rateLimited}}, state: limited, until: 6 * time.Minute},
		{name: "a later 429 does not shorten", events: []event{{0, rateLimited}, {aLittle, with(rateLimited, func(o *scheduler.Outcome) { o.RetryAfter = aLittle })}}, state: limited, until: cooldown429},
		{name: "429 of a family", events: []event{{0, with(rateLimited, func(o *scheduler.Outcome) { o.Family = "opus" })}}, state: active},
		{name: "429 of fast mode", events: []event{{0, with(rateLimited, func(o *scheduler.Outcome) { o.Fast = true })}}, state: active},
		{name: "allowed clears", events: []event{{0, rateLimited}, {0, with(success, func(o *scheduler.Outcome) { o.Window = window("allowed", time.Hour) })}}, state: active},
		{name: "a success alone does not clear", events: []event{{0, rateLimited}, {0, success}}, state: limited, until: cooldown429},
		{name: "a warning does not clear", events: []event{{0, rateLimited}, {0, with(success, func(o *scheduler.Outcome) { o.Window = window("allowed_warning", time.Hour) })}}, state: limited, until: cooldown429},
		{name: "rejected in a success", events: []event{{0, with(success, func(o *scheduler.Outcome) { o.Window = window("rejected", time.Hour) })}}, state: limited, until: time.Hour},
		{name: "rejected with overage in use", events: []event{{0, with(success, func(o *scheduler.Outcome) { o.Window = window("rejected", time.Hour); o.Window.Overage = true })}}, state: active},
		{name: "burst", events: []event{{0, scheduler.Outcome{Kind: scheduler.Burst, RetryAfter: 3 * time.Second}}}, state: limited, until: 3 * time.Second},
		{name: "burst without retry-after", events: []event{{0, scheduler.Outcome{Kind: scheduler.Burst, Reset: noon.Add(time.Hour)}}}, state: limited, until: cooldown429},
		{name: "allowed does not clear a burst", events: []event{{0, scheduler.Outcome{Kind: scheduler.Burst}}, {0, with(success, func(o *scheduler.Outcome) { o.Window = window("allowed", time.Hour) })}}, state: limited, until: cooldown429},
		{name: "spend limit", events: []event{{0, scheduler.Outcome{Kind: scheduler.SpendLimit}}}, state: limited, until: monthsEnd},
		{name: "529", events: []event{{0, overloaded}}, state: overload, until: time.Minute},
		{name: "529 of requests under way", events: repeat(5, event{0, overloaded}), state: overload, until: time.Minute},
		{name: "529 again", events: []event{{0, overloaded}, {time.Minute, overloaded}}, at: time.Minute, state: overload, until: 3 * time.Minute},
		{name: "529 again and again", events: []event{{0, overloaded}, {time.Hour, overloaded}, {2 * time.Hour, overloaded}, {3 * time.Hour, overloaded}, {4 * time.Hour, overloaded}, {5 * time.Hour, overloaded}}, at: 5 * time.Hour, state: overload, until: 5*time.Hour + 10*time.Minute},
		{name: "529 after a success", events: []event{{0, overloaded}, {time.Minute, success}, {time.Minute, overloaded}}, at: time.Minute, state: overload, until: 2 * time.Minute},
		{name: "a success under way does not end an overload", events: []event{{0, overloaded}, {0, success}}, state: overload, until: time.Minute},
		{name: "nor does it make the next one short", events: []event{{0, overloaded}, {0, success}, {time.Minute, overloaded}}, at: time.Minute, state: overload, until: 3 * time.Minute},
		{name: "four faults", events: repeat(4, event{0, fault}), state: active},
		{name: "five faults", events: repeat(5, event{0, fault}), state: overload, until: halfMinute},
		{name: "ten faults at once", events: repeat(10, event{0, fault}), state: overload, until: halfMinute},
		{name: "five faults over more than 60 s", events: append(repeat(1, event{0, fault}), repeat(4, event{61 * time.Second, fault})...), at: 61 * time.Second, state: active},
		{name: "five faults over 60 s", events: append(repeat(1, event{0, fault}), repeat(4, event{time.Minute, fault})...), at: time.Minute, state: overload, until: 90 * time.Second},
		{name: "a success between the faults", events: append(repeat(4, event{0, fault}), event{0, success}, event{0, fault}), state: active},
		{name: "one fault on trial", events: append(repeat(5, event{0, fault}), event{halfMinute, fault}), at: halfMinute, state: overload, until: halfMinute + time.Minute},
		{name: "faults on trial double to 10 min", events: append(repeat(5, event{0, fault}), event{1 * time.Hour, fault}, event{2 * time.Hour, fault}, event{3 * time.Hour, fault}, event{4 * time.Hour, fault}, event{5 * time.Hour, fault}), at: 5 * time.Hour, state: overload, until: 5*time.Hour + 10*time.Minute},
		{name: "a success ends the faults", events: append(repeat(5, event{0, fault}), event{0, success}), state: active},
		{name: "faults after a success begin anew", events: append(append(repeat(5, event{0, fault}), event{halfMinute, success}), repeat(5, event{time.Minute, fault})...), at: time.Minute, state: overload, until: 90 * time.Second},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			word, until, why := standingAfter(test.events...).State(noon.Add(test.at))
			if word != test.state {
				t.Errorf("state %s, want %s (%s)", word, test.state, why)
			}
			want := time.Time{}
			if test.until != 0 {
				want = noon.Add(test.until)
			}
			if !until.Equal(want) {
				t.Errorf("until %v, want %v", until, want)
			}
		})
	}
}

func TestUsable(t *testing.T) {
	opus := with(rateLimited, func(o *scheduler.Outcome) { o.Family = "opus" })
	fast := with(rateLimited, func(o *scheduler.Outcome) { o.Fast = true })
	tests := []struct {
		name   string
		events []event
		at     time.Duration
		model  string
		fast   bool
		use    scheduler.Use
		until  time.Duration
	}{
		{name: "clear", model: "m", use: scheduler.Open},
		{name: "in error", events: []event{{0, scheduler.Outcome{Kind: scheduler.Unauthorized}}}, use: scheduler.Barred},
		{name: "limited", events: []event{{0, rateLimited}}, use: scheduler.Barred, until: cooldown429},
		{name: "on trial", events: []event{{0, rateLimited}}, at: cooldown429, use: scheduler.Probe},
		{name: "on trial for long", events: []event{{0, rateLimited}}, at: 1000 * time.Hour, use: scheduler.Probe},
		{name: "tried", events: []event{{0, rateLimited}, {cooldown429, success}}, at: cooldown429, use: scheduler.Open},
		{name: "failed the trial", events: []event{{0, rateLimited}, {cooldown429, rateLimited}}, at: cooldown429, use: scheduler.Barred, until: 2 * cooldown429},
		{name: "forbidden model", events: []event{{0, forbidden}}, model: "claude-opus-4", use: scheduler.Barred, until: cooldown429},
		{name: "another model", events: []event{{0, forbidden}}, model: "claude-opus-4-1", use: scheduler.Open},
		{name: "limited family", events: []event{{0, opus}}, model: "claude-opus-4-1", use: scheduler.Barred, until: cooldown429},
		{name: "another family", events: []event{{0, opus}}, model: "claude-sonnet-4", use: scheduler.Open},
		{name: "another family's success", events: []event{{0, opus}, {cooldown429, with(success, func(o *scheduler.Outcome) { o.Model = "claude-sonnet-4" })}}, at: cooldown429, model: "claude-opus-4", use: scheduler.Probe},
		{name: "another family allowed", events: []event{{0, opus}, {0, with(success, func(o *scheduler.Outcome) { o.Model = "claude-sonnet-4"; o.Window = window("allowed", 0) })}}, model: "claude-opus-4", use: scheduler.Barred, until: cooldown429},
		{name: "fast mode limited", events: []event{{0, fast}}, fast: true, use: scheduler.Barred, until: cooldown429},
		{name: "slow mode is not", events: []event{{0, fast}}, use: scheduler.Open},
		{name: "slow mode's success", events: []event{{0, fast}, {cooldown429, success}}, at: cooldown429, fast: true, use: scheduler.Probe},
		{name: "fast mode's success", events: []event{{0, fast}, {cooldown429, with(success, func(o *scheduler.Outcome) { o.Fast = true })}}, at: cooldown429, fast: true, use: scheduler.Open},
		{name: "the last of several limits", events: []event{{0, rateLimited}, {0, with(forbidden, func(o *scheduler.Outcome) { o.Model = "m" })}, {0, scheduler.Outcome{Kind: scheduler.SpendLimit}}, {0, overloaded}}, model: "m", use: scheduler.Barred, until: monthsEnd},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			use, until := standingAfter(test.events...).Usable(noon.Add(test.at), test.model, test.fast)
			if use != test.use {
				t.Errorf("use %d, want %d", use, test.use)
			}
			want := time.Time{}
			if test.until != 0 {
				want = noon.Add(test.until)
			}
			if !until.Equal(want) {
				t.Errorf("until %v, want %v", until, want)
			}
		})
	}
}

func TestWindow(t *testing.T) {
	hour := noon.Truncate(time.Hour)
	from := func(end time.Duration, status string) scheduler.Window {
		return scheduler.Window{Start: noon.Add(end - 5*time.Hour), End: noon.Add(end), Status: status, Utilization: 0.5}
	}
	answer := func(status string, reset time.Duration) scheduler.Outcome {
		return scheduler.Outcome{Kind: scheduler.Success, Window: window(status, reset)}
	}
	tests := []struct {
		name   string
		events []event
		want   scheduler.Window
	}{
		{"nothing said", []event{{0, success}}, scheduler.Window{}},
		{"end said", []event{{0, answer("allowed", time.Hour)}}, from(time.Hour, "allowed")},
		{"end not said", []event{{0, answer("allowed", 0)}}, scheduler.Window{Start: hour, End: hour.Add(5 * time.Hour), Status: "allowed", Utilization: 0.5}},
		{"end not said, known", []event{{0, answer("allowed", time.Hour)}, {time.Minute, answer("allowed_warning", 0)}}, from(time.Hour, "allowed_warning")},
		{"end not said, expired", []event{{0, answer("rejected", time.Hour)}, {time.Hour, answer("allowed", 0)}}, scheduler.Window{Start: hour.Add(time.Hour), End: hour.Add(6 * time.Hour), Status: "allowed", Utilization: 0.5}},
		{"429 of the five-hour claim", []event{{0, scheduler.Outcome{Kind: scheduler.RateLimited, Reset: noon.Add(2 * time.Hour), Window: window("rejected", 0)}}}, from(2*time.Hour, "rejected")},
		{"burst", []event{{0, scheduler.Outcome{Kind: scheduler.Burst, Window: window("rejected", time.Hour)}}}, scheduler.Window{}},
		{"reset by the operator", []event{{0, answer("allowed", time.Hour)}, {0, overloaded}}, from(time.Hour, "allowed")},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			st := standingAfter(test.events...)
			st.Reset()
			if diff := cmp.Diff(scheduler.Standing{Window: test.want}, *st); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestSmallStepsOfUtilizationAreNoChange(t *testing.T) {
	st := standingAfter(event{0, with(success, func(o *scheduler.Outcome) { o.Window = window("allowed", time.Hour) })})
	before := st.Clone()
	for utilization, same := range map[float64]bool{0.505: true, 0.495: true, 0.51: false} {
		after := before.Clone()
		after.Apply(with(success, func(o *scheduler.Outcome) {
			o.Window = window("allowed", time.Hour)
			o.Window.Utilization = utilization
		}), noon, cooldowns)
		if after.Equal(&before) != same {
			t.Errorf("utilization 0.5 to %v: equal = %v", utilization, !same)
		}
	}
}

func TestReasonsAreForTheOperator(t *testing.T) {
	why := func(st *scheduler.Standing) string { _, _, why := st.State(noon); return why }
	st := standingAfter(event{0, scheduler.Outcome{Kind: scheduler.Unauthorized, Reason: "token expired"}})
	if got, want := why(st), "credential refused: token expired"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	st = standingAfter(event{0, scheduler.Outcome{Kind: scheduler.RateLimited, Family: "opus", Fast: true, Reason: "weekly"}})
	if got, want := why(st), "opus fast mode rate_limited until 2026-12-10T12:39:56Z: weekly"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	st = standingAfter(event{0, with(overloaded, func(o *scheduler.Outcome) { o.Reason = strings.Repeat("ü", 1000) })})
	if got := why(st); len(got) > 410 || !strings.HasPrefix(got, "üü") || strings.ContainsRune(got, '\uFFFD') {
		t.Errorf("a long reason became %d bytes: %q", len(got), got)
	}
}

func TestPaused(t *testing.T) {
	st := scheduler.Standing{Paused: true}
	st.Reset()
	if use, _ := st.Usable(noon, "m", false); use != scheduler.Barred || st.Clear() {
		t.Error("a paused account is used")
	}
	if word, _, _ := st.State(noon); word != scheduler.StateDisabled {
		t.Errorf("state %s", word)
	}
}

func TestClientsCannotFillTheDocument(t *testing.T) {
	var st scheduler.Standing
	for i := range 1000 {
		st.Apply(with(forbidden, func(o *scheduler.Outcome) { o.Model = fmt.Sprint("model-", i) }), noon, cooldowns)
		st.Apply(success, noon, cooldowns)
	}
	st.Apply(with(forbidden, func(o *scheduler.Outcome) { o.Model = strings.Repeat("m", 1<<20) }), noon, cooldowns)
	if data, err := json.Marshal(&st); err != nil || len(data) > 8<<10 {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	st.Apply(success, noon.Add(2*time.Hour), cooldowns)
	if len(st.Limits) > 0 {
		t.Errorf("%d limits that ended long ago", len(st.Limits))
	}
}

func drawOutcome(t *rapid.T) scheduler.Outcome {
	o := scheduler.Outcome{
		Kind:       scheduler.OutcomeKind(rapid.IntRange(int(scheduler.Success), int(scheduler.ServerFault)).Draw(t, "kind")),
		Model:      rapid.SampledFrom([]string{"claude-opus-4", "claude-sonnet-4"}).Draw(t, "model"),
		Family:     rapid.SampledFrom([]string{"", "opus"}).Draw(t, "family"),
		Fast:       rapid.Bool().Draw(t, "fast"),
		RetryAfter: time.Duration(rapid.IntRange(0, 100).Draw(t, "retry-after")) * time.Second,
	}
	if rapid.Bool().Draw(t, "window said") {
		o.Window = window(rapid.SampledFrom([]string{"allowed", "allowed_warning", "rejected"}).Draw(t, "status"), 0)
	}
	return o
}

// TestStandingProperties: whatever happens, a standing survives JSON, Apply
// leaves copies alone, an account without Error comes back by itself within a
// month, and successes of every kind clear it then.
func TestStandingProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var st scheduler.Standing
		now := noon
		for range rapid.IntRange(1, 30).Draw(t, "outcomes") {
			now = now.Add(time.Duration(rapid.IntRange(0, 200).Draw(t, "pause")) * time.Second)
			copied := st // shares memory, as what a State returns does
			before := st.Clone()
			st.Apply(drawOutcome(t), now, cooldowns)
			if !copied.Equal(&before) {
				t.Fatalf("Apply changed a copy: %+v, was %+v", copied, before)
			}
		}
		data, err := json.Marshal(&st)
		var back scheduler.Standing
		if err == nil {
			err = json.Unmarshal(data, &back)
		}
		if err != nil || !back.Equal(&st) {
			t.Fatalf("%s: %v", data, err)
		}
		if st.Error != "" {
			return
		}
		now = now.Add(32 * 24 * time.Hour)
		for _, model := range []string{"claude-opus-4", "claude-sonnet-4"} {
			if use, _ := st.Usable(now, model, true); use == scheduler.Barred || !st.NextChange(now).IsZero() {
				t.Fatalf("out after a month: %+v", st)
			}
			st.Apply(scheduler.Outcome{Kind: scheduler.Success, Model: model, Fast: true}, now, cooldowns)
		}
		if !st.Clear() {
			t.Fatalf("not clear after successes: %+v", st)
		}
	})
}
