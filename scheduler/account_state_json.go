package scheduler

import (
	"encoding/json"
	"slices"
	"time"
)

// UnmarshalJSON reads an AccountState, also one that an earlier version has kept:
// what was out for its own rules then is not out any more, but for spent windows
// and spend limits.
func (s *AccountState) UnmarshalJSON(text []byte) error {
	type plain AccountState // without this method
	var read struct {
		plain
		Limits []struct {
			Limit
			Kind  string `json:"kind"`
			Model string `json:"model"`
		} `json:"limits"`
		Window *Window `json:"window"` // the five-hour one, which was the only one
	}
	if err := json.Unmarshal(text, &read); err != nil {
		return err
	}
	*s = AccountState(read.plain)
	for _, l := range read.Limits {
		switch {
		case l.Claim != "":
		case l.Kind == "rate_limited" && l.Model == "" && l.Fast:
			l.Claim = ClaimFast
		case l.Kind == "rate_limited" && l.Model == "":
			l.Claim = ClaimUnified
		case l.Kind == "spend_limit":
			l.Claim = ClaimSpend
		default:
			continue
		}
		s.Limits = append(s.Limits, l.Limit)
	}
	if w := read.Window; w != nil && w.Status != "" && !slices.ContainsFunc(s.Windows, func(v Window) bool { return v.Name == "5h" }) {
		w.Name = "5h"
		s.Windows = append(s.Windows, *w)
	}
	return nil
}

// windowLength is the length of a window by its name: "5h", "7d_opus"; 0 where
// the name does not say.
func windowLength(name string) time.Duration {
	n, i := time.Duration(0), 0
	for ; i < len(name) && i < 3 && '0' <= name[i] && name[i] <= '9'; i++ {
		n = n*10 + time.Duration(name[i]-'0')
	}
	if i == 0 || i == len(name) || len(name) > i+1 && name[i+1] != '_' {
		return 0
	}
	switch name[i] {
	case 'h':
		return n * time.Hour
	case 'd':
		return n * 24 * time.Hour
	}
	return 0
}
