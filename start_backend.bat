@echo off
rem Starts the speech server. It reads its settings from .env in this folder.
rem start_backend.bat --no-pause closes the window at the end instead of waiting for a key.
setlocal
set "EXIT_CODE=1"
cd /d "%~dp0"
call scripts\activate_environment.bat
if errorlevel 1 goto failed

python -m backend.app
set "EXIT_CODE=%errorlevel%"
if "%EXIT_CODE%"=="0" goto finish

:failed
echo.
echo The backend did not start or stopped with an error. The reason stands above.

:finish
if /i not "%~1"=="--no-pause" pause
exit /b %EXIT_CODE%
