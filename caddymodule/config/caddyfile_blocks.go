package config

import (
	"errors"
	"fmt"
)

// words are those of the sub2api block.
func (h *Config) words(p *parser) map[string]word {
	return wordsOf(h.options(), map[string]word{
		"store":      {usage: storeUsage, min: 1, max: -1, open: h.openStore(p)},
		"account":    namedBlock(h.openAccount(p)),
		"group":      namedBlock(h.openGroup(p)),
		"user":       namedBlock(h.openUser(p)),
		"scheduling": sectionBlock(p, &h.Scheduling, (*Scheduling).options),
		"retry":      sectionBlock(p, &h.Retry, (*Retry).options),
		"request":    sectionBlock(p, &h.Request, (*Request).options),
		"relay":      sectionBlock(p, &h.Relay, (*Relay).options),
		"billing":    sectionBlock(p, &h.Billing, (*Billing).options),
	})
}

func (h *Config) openAccount(p *parser) opener {
	return func(path string, args []string) error {
		a := Account{Name: args[0]}
		err := p.block(path, "account "+a.Name, wordsOf(a.options(), map[string]word{
			"oauth":       sectionBlock(p, &a.OAuth, (*OAuth).options),
			"models":      {usage: "{ <model|prefix*> [<upstream model>] … }", open: a.openModels(p)},
			"error_codes": {usage: "<status…>", min: 1, max: -1, read: a.readErrorCodes},
			"header": {usage: "<name> <value>", min: 2, max: 2, repeat: true, read: func(args []string) error {
				a.Header = append(a.Header, HeaderField{Name: args[0], Value: args[1]})
				return nil
			}},
			"disabled":         flagWord(&a.Disabled),
			"mixed_scheduling": flagWord(&a.MixedScheduling),
		}))
		h.Accounts = append(h.Accounts, a)
		return err
	}
}

// openModels reads lines that begin with a model instead of a fixed word.
func (a *Account) openModels(p *parser) opener {
	return func(path string, _ []string) error {
		err := p.lines(func(first string) error {
			p.seen[p.nth(path)] = p.d.Token()
			rule := ModelRule{Match: first}
			if p.d.NextArg() {
				rule.Upstream = p.d.Val()
			}
			if p.d.NextArg() || p.atBlock() {
				return p.d.Errf("account %s: models: too many words after %q; write: <model|prefix*> [<upstream model>]", a.Name, first)
			}
			a.Models = append(a.Models, rule)
			return nil
		})
		if err == nil && len(a.Models) == 0 {
			err = p.d.Errf("account %s: models: the block is empty; name the models, or leave it out to serve every model", a.Name)
		}
		return err
	}
}

func (a *Account) readErrorCodes(args []string) error {
	for _, arg := range args {
		code, err := parseNumber(arg)
		if err != nil {
			return err
		}
		a.ErrorCodes = append(a.ErrorCodes, code)
	}
	return nil
}

func (h *Config) openGroup(p *parser) opener {
	return func(path string, args []string) error {
		g := Group{Name: args[0]}
		err := p.block(path, "group "+g.Name, wordsOf(g.options(), map[string]word{
			"accounts": manyTexts(&g.Accounts, "<account…>"),
			"limits":   sectionBlock(p, &g.Limits, (*Limits).options),
		}))
		h.Groups = append(h.Groups, g)
		return err
	}
}

func (h *Config) openUser(p *parser) opener {
	return func(path string, args []string) error {
		u := User{Name: args[0]}
		err := p.block(path, "user "+u.Name, wordsOf(u.options(), map[string]word{
			"key": {usage: "<secret>|sha256:<digest> [<group…>]", min: 1, max: -1, repeat: true, read: func(args []string) error {
				u.Keys = append(u.Keys, Key{Key: args[0], Groups: args[1:]})
				return nil
			}},
			"subscribe": {usage: "<group> [until <time>]", min: 1, max: 3, repeat: true, read: u.readSubscribe},
		}))
		h.Users = append(h.Users, u)
		return err
	}
}

func (u *User) readSubscribe(args []string) error {
	s := Subscribe{Group: args[0]}
	switch {
	case len(args) > 1 && args[1] != "until":
		return errors.New("only `until` may follow the group")
	case len(args) == 2:
		return errors.New("the time of `until` is missing")
	case len(args) == 3:
		s.Until = args[2]
	}
	u.Subscriptions = append(u.Subscriptions, s)
	return nil
}

// readOnDisconnect reads what to do when a client leaves.
func readOnDisconnect(to **OnDisconnect, args []string) error {
	o := &OnDisconnect{}
	*to = o
	switch {
	case args[0] == "cancel" && len(args) == 1:
		return nil
	case args[0] == "cancel":
		return errors.New("nothing follows `cancel`")
	case args[0] != "drain":
		return fmt.Errorf("%q is neither cancel nor drain", args[0])
	case len(args) == 1:
		return errors.New("the duration of `drain` is missing")
	}
	drain, err := parseDuration(args[1])
	if err == nil && drain <= 0 {
		err = errors.New("the duration of `drain` must be over 0s; or write: cancel")
	}
	o.Drain = drain
	return err
}

// readKeepalive reads when comments are sent.
func readKeepalive(to **Keepalive, args []string) error {
	interval, err := parseDuration(args[0])
	if err != nil {
		return err
	}
	k := &Keepalive{Interval: &interval}
	*to = k
	switch {
	case len(args) == 1:
		return nil
	case args[1] != "after":
		return errors.New("only `after` may follow the duration")
	case len(args) == 2:
		return errors.New("the duration of `after` is missing")
	}
	after, err := parseDuration(args[2])
	k.After = &after
	return err
}
