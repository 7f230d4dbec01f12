package admin

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/sub2api/caddy-sub2api/caddymodule/gateway"
	"github.com/sub2api/caddy-sub2api/scheduler"
)

// Account is an account as the admin API shows it.
type Account struct {
	Name        string   `json:"name"`
	Platform    string   `json:"platform"`
	Type        string   `json:"type"`   // api_key, setup_token or oauth
	Groups      []string `json:"groups"` // that it serves
	Priority    int      `json:"priority"`
	Concurrency int      `json:"concurrency"` // 0 = no limit
	InUse       int      `json:"in_use"`
	Waiting     int      `json:"waiting"`
	// State is active, rate_limited, overloaded, error or disabled.
	State string `json:"state"`
	// StateUntil is null where the state does not end by itself.
	StateUntil *time.Time `json:"state_until"`
	Reason     *string    `json:"reason"` // null = there is nothing to say
	Marks      []Mark     `json:"marks"`  // what ends last first
	// Models are names and prefixes, as clients write them; none = every model.
	Models  []string        `json:"models"`
	Windows []AccountWindow `json:"windows"`
	// LastUsed is when it was given a request last; null = not since its store, if
	// that is embedded, was opened.
	LastUsed *time.Time `json:"last_used"`
	// ErrorNextTry is when the gateway asks an account in error again; null = never.
	ErrorNextTry *time.Time `json:"error_next_try"`
}

// Mark is part of an account that is out or comes last.
type Mark struct {
	Scope  string    `json:"scope"`
	Reason string    `json:"reason"`
	Until  time.Time `json:"until"`
}

// AccountWindow is a window of an account, as upstream last told; null = it
// did not say.
type AccountWindow struct {
	Name        string     `json:"name"`
	Start       *time.Time `json:"start"`
	End         *time.Time `json:"end"`
	Status      string     `json:"status"`
	Utilization *float64   `json:"utilization"` // the spent fraction; it may pass 1
}

// declaredAccount is an account of the config, and a config that has it.
type declaredAccount struct {
	*gateway.Account
	config *gateway.Gateway
	groups []string
}

// accounts are those of the configs in force, by name. Where several have one of a
// name, the newest counts, and the groups are those of all.
func (s *adminStore) accounts() (all []declaredAccount) {
	at := map[string]int{}
	for _, config := range s.configs {
		groups := config.Scheduler.Groups()
		for _, account := range config.Config.Accounts {
			i, known := at[account.Name]
			if !known {
				i = len(all)
				at[account.Name] = i
				all = append(all, declaredAccount{Account: account, config: config})
			}
			all[i].groups = slices.Concat(all[i].groups, groups[account.Name])
		}
	}
	for i := range all {
		slices.Sort(all[i].groups)
		all[i].groups = slices.Compact(all[i].groups)
	}
	slices.SortFunc(all, func(a, b declaredAccount) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// viewAccounts is what is known of accounts.
func (s *adminStore) viewAccounts(ctx context.Context, accounts ...declaredAccount) ([]Account, error) {
	places := make([]string, len(accounts))
	for i, account := range accounts {
		places[i] = scheduler.AccountPlace(account.Name)
	}
	loads, err := s.State.Loads(ctx, places)
	if err != nil {
		return nil, err
	}
	now := s.State.Now() // by which the states are
	views := make([]Account, len(accounts))
	for i, account := range accounts {
		accountState := s.State.AccountState(places[i])
		views[i] = viewOfAccount(account, &accountState, loads[i], now)
	}
	return views, nil
}

func viewOfAccount(a declaredAccount, accountState *scheduler.AccountState, load scheduler.Load, now time.Time) Account {
	v := Account{
		Name: a.Name, Platform: string(a.Platform), Type: a.Kind.String(), Groups: orEmpty(a.groups),
		Priority: a.Priority, Concurrency: a.Concurrency, InUse: load.InUse, Waiting: load.Waiting,
		Marks: []Mark{}, Models: []string{}, Windows: []AccountWindow{}, LastUsed: momentView(load.LastUsed),
	}
	state, until, reason := accountState.Summary(now)
	if a.Disabled {
		state, until = scheduler.StateDisabled, time.Time{}
		if accountState.Pause != nil {
			reason = disabledInConfig + "; " + reason
		} else {
			reason = disabledInConfig
		}
	}
	v.State, v.StateUntil = state, momentView(until)
	if reason != "" {
		v.Reason = &reason
	}
	if state == scheduler.StateError {
		v.ErrorNextTry = momentView(accountState.ErrorNext)
	}
	for _, m := range accountState.Marks(now) {
		v.Marks = append(v.Marks, Mark{m.Scope, m.Reason, m.Until.UTC()})
	}
	for _, rule := range a.Models {
		v.Models = append(v.Models, rule.Match)
	}
	for _, w := range accountState.Windows {
		view := AccountWindow{Name: w.Name, Start: momentView(w.Start), End: momentView(w.End), Status: w.Status}
		if w.Utilization >= 0 {
			view.Utilization = new(w.Utilization)
		}
		v.Windows = append(v.Windows, view)
	}
	return v
}

// disabledInConfig is why an account is disabled that the config disables.
const disabledInConfig = "disabled in the config"

// listAccounts answers GET accounts.
func listAccounts(c *call) error {
	views, err := c.store.viewAccounts(c.ctx, c.store.accounts()...)
	if err != nil {
		return err
	}
	return c.answer(views)
}

// actOnAccount answers a POST that does something to the account in the path.
func actOnAccount(act func(c *call, a declaredAccount) error) func(*call) error {
	return func(c *call) error {
		var body struct{}
		if err := c.body(&body); err != nil {
			return err
		}
		all := c.store.accounts()
		i := slices.IndexFunc(all, func(a declaredAccount) bool { return a.Name == c.r.PathValue("name") })
		if i < 0 {
			return refuse(http.StatusNotFound, "there is no account %.80q in the config", c.r.PathValue("name"))
		}
		if err := act(c, all[i]); err != nil {
			return err
		}
		views, err := c.store.viewAccounts(c.ctx, all[i])
		if err != nil {
			return err
		}
		return c.answer(views[0])
	}
}

// pauseAccount keeps new requests from an account, until resumeAccount.
func pauseAccount(c *call, a declaredAccount) error {
	return a.config.Scheduler.Pause(c.ctx, a.Name, c.caller())
}

// resumeAccount ends a pause.
func resumeAccount(c *call, a declaredAccount) error {
	accountState := c.store.State.AccountState(scheduler.AccountPlace(a.Name))
	if a.Disabled && accountState.Pause == nil {
		return refuse(http.StatusConflict, "account %s is %s; change the config and reload it", a.Name, disabledInConfig)
	}
	return a.config.Scheduler.Resume(c.ctx, a.Name)
}

// resetAccount ends what keeps an account out or puts it last, but for a pause.
func resetAccount(c *call, a declaredAccount) error {
	return a.config.Scheduler.Reset(c.ctx, a.Name)
}

// caller is who calls, as far as that is known: the admin endpoint has no logins.
func (c *call) caller() string {
	const api = "the admin API"
	host, _, err := net.SplitHostPort(c.r.RemoteAddr)
	if address, parseErr := netip.ParseAddr(host); err != nil || parseErr != nil || address.Unmap().IsLoopback() {
		return api
	}
	return api + ", from " + host
}
