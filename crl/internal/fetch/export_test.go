package fetch

import "time"

// SetTimes shortens the bounds for tests.
func (c *Client) SetTimes(idle, total, grace time.Duration) {
	c.idle, c.total, c.grace = idle, total, grace
}
