"""How each shipped file was made: functions that return a frozen config."""
