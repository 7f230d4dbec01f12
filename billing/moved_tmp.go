package billing

import "time"

func (ws Windows) Moved(now time.Time, loc *time.Location) Windows {
	fresh := WindowsFrom(now, loc)
	for s := range ws {
		if ws[s].Start.After(now) {
			ws[s].Start, ws[s].End = fresh[s].Start, fresh[s].End
		}
	}
	return ws
}
