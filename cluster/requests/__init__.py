"""What each verb takes, declared once, for the command line, Python, help, documents and jobs."""
